import random
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store.actions import ActionBatch, Kind
from store.embeddings import EmbeddingTable
from store.partition import PartitionStore
from store.reader import SequenceReader
from store.sequence import Column, Sequence, SequenceQuery
from tests.store.made import EVERYTHING, Event, batch_of, open_store, tiny

MOMENTS = [-(1 << 63), -3, 0, *range(5, 60, 5), (1 << 63) - 1]
TYPES = [1, 2, 5, 255]


def made(user: bytes, n: int, seed: int) -> list[Event]:
    rng = random.Random(seed)
    return [
        Event(
            user,
            rng.choice(MOMENTS),
            rng.choice([0, 1, 2, 1 << 63]),
            rng.choice(TYPES) << 8 | rng.choice([0, 255]),
            kind,
        )
        for kind in Kind
        for _ in range(n)
    ]


# Nothing sealed; chunks and unsealed ones; a trimmed start of the oldest chunk; nothing at all of one kind.
USERS = {
    "few": made(b"few", 5, 1),
    "many": made(b"many", 60, 2),
    "full": made(b"full", 400, 3),
    "one kind": [event for event in made(b"one kind", 30, 4) if event.kind is Kind.IMPRESSION],
    "nobody": [],
}
SHAPE = tiny(max_explicit=70, max_impressions=41)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PartitionStore]:
    opened = open_store(tmp_path_factory.mktemp("reader"), SHAPE)
    arrivals = [event for events in USERS.values() for event in events]
    random.Random(0).shuffle(arrivals)
    for at in range(0, len(arrivals), 7):
        opened.apply(batch_of(arrivals[at : at + 7]), offset=at)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def embeddings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddingTable]:
    table = EmbeddingTable.open(tmp_path_factory.mktemp("table"))
    give(table, {1: 11, 1 << 63: -12})
    yield table
    table.close()


def give(table: EmbeddingTable, values: dict[int, int]) -> None:
    ids = np.array([*values], np.uint64)
    rows = np.array([[value] * 32 for value in values.values()], np.int8)
    table.apply(ids, rows, np.ones(len(ids), np.uint32), partition=0, offset=0)


def kept(user: str, kind: Kind) -> list[Event]:
    return sorted({event for event in USERS[user] if event.kind is kind})[-SHAPE.cap(kind) :]


QUERIES = st.builds(
    SequenceQuery,
    kinds=st.sampled_from([(Kind.EXPLICIT,), (Kind.IMPRESSION,), (Kind.IMPRESSION, Kind.EXPLICIT)]),
    newest=st.none() | st.integers(0, 90),
    from_timestamp_ms=st.none() | st.sampled_from([*MOMENTS, 1, 33]),
    to_timestamp_ms=st.none() | st.sampled_from([*MOMENTS, 1, 33]),
    action_types=st.frozensets(st.sampled_from([*TYPES, 3, 900]), max_size=3),
    columns=st.sets(st.sampled_from(list(Column.ALL)), min_size=1).map(
        lambda found: Column(sum(c.value for c in found))
    ),
)


@given(user=st.sampled_from(sorted(USERS)), query=QUERIES)
@settings(deadline=None, max_examples=400)
def test_a_read_gives_what_the_query_means(
    store: PartitionStore, embeddings: EmbeddingTable, user: str, query: SequenceQuery
) -> None:
    as_of, sequences = SequenceReader(store, embeddings).read(user, query)
    assert as_of == (3, store.applied_offset, (1 << 63) - 1)
    assert tuple(sequences) == query.kinds
    for kind, found in sequences.items():
        everything = kept(user, kind)
        wanted = [
            event
            for event in everything
            if (query.from_timestamp_ms is None or event.timestamp_ms >= query.from_timestamp_ms)
            and (query.to_timestamp_ms is None or event.timestamp_ms < query.to_timestamp_ms)
            and (not query.action_types or event.code >> 8 in query.action_types)
        ]
        if query.newest is not None:
            wanted = wanted[len(wanted) - min(query.newest, len(wanted)) :]
        assert (found.length, found.stored) == (len(wanted), len(everything))
        check_columns(found, wanted, query.columns)


def check_columns(found: Sequence, wanted: list[Event], columns: Column) -> None:
    embedding = {1: 11, 1 << 63: -12}
    expected = {
        Column.TIMESTAMP_MS: ("timestamp_ms", np.int64, [event.timestamp_ms for event in wanted]),
        Column.ITEM_ID: ("item_id", np.uint64, [event.item_id for event in wanted]),
        Column.ACTION_TYPE: ("action_type", np.uint8, [event.code >> 8 for event in wanted]),
        Column.SURFACE: ("surface", np.uint8, [event.code & 255 for event in wanted]),
        Column.EMBEDDING: ("embedding", np.int8, [[embedding.get(event.item_id, 0)] * 32 for event in wanted]),
    }
    for column, (name, dtype, values) in expected.items():
        array = getattr(found, name)
        if column not in columns:
            assert array is None
            continue
        assert array.dtype == dtype
        assert array.shape == ((len(wanted), 32) if column is Column.EMBEDDING else (len(wanted),))
        assert array.tolist() == values


def test_a_reader_without_a_table_reads_zeros(store: PartitionStore) -> None:
    sequence = SequenceReader(store).read("few", SequenceQuery(columns=Column.EMBEDDING)).sequences[Kind.EXPLICIT]
    assert sequence.embedding is not None
    assert sequence.embedding.shape == (sequence.length, 32)
    assert not sequence.embedding.any()


def test_embeddings_are_those_of_now(tmp_path: Path) -> None:
    # New, changed and forgotten embeddings, and items that the partition sees only later.
    store, table = open_store(tmp_path / "p", SHAPE), EmbeddingTable.open(tmp_path / "t")
    reader = SequenceReader(store, table)

    def values() -> list[int]:
        found = reader.read("ann", SequenceQuery(columns=Column.EMBEDDING)).sequences[Kind.EXPLICIT].embedding
        assert found is not None
        return [int(row[5]) for row in found]

    assert values() == []
    store.apply(batch_of([Event(b"ann", at, at, 257) for at in range(3)]), offset=0)
    assert values() == [0, 0, 0]
    give(table, {1: 5, 77: 6})
    assert values() == [0, 5, 0]
    give(table, {0: 1, 1: 7})
    assert values() == [1, 7, 0]
    store.apply(batch_of([Event(b"ann", 9, 77, 257), Event(b"ann", 10, 78, 257)]), offset=1)
    assert values() == [1, 7, 0, 6, 0]
    give(table, {1: 0, 2: 3})
    assert values() == [1, 0, 3, 6, 0]
    give(table, {78: 9})
    assert values() == [1, 0, 3, 6, 9]
    store.close()
    table.close()


def test_what_was_read_stays_as_it_was(tmp_path: Path) -> None:
    store = open_store(tmp_path, SHAPE)
    store.apply(batch_of([Event(b"ann", at, at, 257) for at in range(20)]), offset=0)
    _, sequences = SequenceReader(store).read("ann", EVERYTHING)
    before = sequences[Kind.EXPLICIT].identities()
    store.apply(batch_of([Event(b"ann", at, at, 257) for at in range(20, 200)]), offset=1)
    store.erase(b"ann", offset=2)
    store.close()
    assert sequences[Kind.EXPLICIT].identities() == before


@pytest.mark.parametrize("head_cache_entries", [1, 65_536])
def test_a_view_is_of_one_moment_while_a_thread_writes(tmp_path: Path, head_cache_entries: int) -> None:
    # Offset k gives both sequences the events of moment k, some of them late, and now and then erases the user: what
    # is seen must be exactly the offsets up to as_of, in the middle of seals and trims or not.
    shape = tiny(max_explicit=50, max_impressions=21, head_cache_entries=head_cache_entries)
    store = open_store(tmp_path, shape)
    reader, done, wrong, watched = SequenceReader(store), threading.Event(), list[str](), set[int]()
    last, erased_every = 600, 97

    def moments(offset: int) -> list[int]:
        return [offset * 10, offset * 10 + 1, max(0, offset - 4) * 10 + 5]

    def wanted(offset: int, kind: Kind) -> list[int]:
        since = (offset + 1) // erased_every * erased_every
        times = {at for number in range(since, offset + 1) for at in moments(number)}
        return sorted(times)[-shape.cap(kind) :]

    def read() -> None:
        seen = -1
        try:
            while not done.is_set():
                as_of, sequences = reader.read("ann", EVERYTHING)
                if as_of.applied_offset < seen:
                    wrong.append(f"back from {seen} to {as_of.applied_offset}")
                seen = as_of.applied_offset
                watched.add(seen)
                for kind, sequence in sequences.items():
                    assert sequence.timestamp_ms is not None
                    if sequence.timestamp_ms.tolist() != (wanted(seen, kind) if seen >= 0 else []):
                        wrong.append(f"{kind!r} at {seen}: {sequence.timestamp_ms.tolist()}")
        except Exception as error:
            wrong.append(repr(error))
            raise

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    readers = [threading.Thread(target=read) for _ in range(2)]
    try:
        for thread in readers:
            thread.start()
        for offset in range(last):
            if (offset + 1) % erased_every == 0:
                store.erase(b"ann", offset=offset)
                continue
            events = [Event(b"ann", at, at % 7, 257, kind) for kind in Kind for at in moments(offset)]
            others = [Event(b"bob", at, 1, 257) for at in moments(offset)]
            store.apply(batch_of([*events, *others]), offset=offset)
    finally:
        done.set()
        for thread in readers:
            thread.join(20)
        sys.setswitchinterval(before)
    store.close()
    assert not wrong[:3]
    assert len(watched) > 10


def test_a_read_of_an_unknown_user_is_empty_and_knows_its_moment(store: PartitionStore) -> None:
    store_now = store.applied_offset
    as_of, sequences = SequenceReader(store).read("", EVERYTHING)
    assert as_of.applied_offset == store_now
    assert [sequence.length for sequence in sequences.values()] == [0, 0]
    store.apply(ActionBatch.empty(), offset=store_now + 1)
    assert SequenceReader(store).read("", EVERYTHING).as_of.applied_offset == store_now + 1
