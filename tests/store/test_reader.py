import random
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from lifeline.core.actions import MAX_TIMESTAMP_MS, ActionBatch, Kind
from lifeline.core.sequence import AsOf, Column, Sequence, SequenceQuery
from lifeline.store.chunk import Chunk
from lifeline.store.database import View
from lifeline.store.embeddings import EmbeddingTable
from lifeline.store.partition import PartitionStore
from lifeline.store.reader import SequenceReader
from lifeline.store.segment import RUN
from lifeline.store.settings import StoreSettings
from tests.support.factories import EVERYTHING, Event, batch_of, open_store, tiny

MOMENTS = [-(1 << 63), -3, 0, *range(5, 60, 5), MAX_TIMESTAMP_MS]
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
SHAPES = {
    "small chunks": tiny(max_explicit=70, max_impressions=41),
    # Here the unsealed events are an encoded run, raw segments, and inline ones.
    "runs": tiny(max_explicit=230, max_impressions=190, chunk_events=70, keep_unsealed=80, inline_events=6),
}
SHAPE = SHAPES["small chunks"]


class Filled(NamedTuple):
    store: PartitionStore
    shape: StoreSettings

    def kept(self, user: str, kind: Kind) -> list[Event]:
        return sorted({event for event in USERS[user] if event.kind is kind})[-self.shape.cap(kind) :]


@pytest.fixture(scope="module", params=list(SHAPES))
def filled(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Filled]:
    shape = SHAPES[request.param]
    opened = open_store(tmp_path_factory.mktemp("reader"), shape)
    arrivals = [event for events in USERS.values() for event in events]
    random.Random(0).shuffle(arrivals)
    for at in range(0, len(arrivals), 7):
        opened.apply(batch_of(arrivals[at : at + 7]), offset=at)
    if request.param == "runs":
        assert any(data[:1] == RUN for data in opened.database.rows.values())
    yield Filled(opened, shape)
    opened.close()


@pytest.fixture(scope="module")
def store(filled: Filled) -> PartitionStore:
    return filled.store


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


QUERIES = st.builds(
    SequenceQuery,
    kinds=st.sampled_from([(Kind.EXPLICIT,), (Kind.IMPRESSION,), (Kind.IMPRESSION, Kind.EXPLICIT)]),
    newest=st.none() | st.integers(0, 90) | st.integers(0, 260),
    from_timestamp_ms=st.none() | st.sampled_from([*MOMENTS, 1, 33]),
    to_timestamp_ms=st.none() | st.sampled_from([*MOMENTS, 1, 33]),
    action_types=st.frozensets(st.sampled_from([*TYPES, 3, 900]), max_size=3),
    columns=st.sets(st.sampled_from(list(Column.ALL)), min_size=1).map(
        lambda found: Column(sum(c.value for c in found))
    ),
)


@given(user=st.sampled_from(sorted(USERS)), query=QUERIES)
@settings(max_examples=400)
def test_a_read_gives_what_the_query_means(
    filled: Filled, embeddings: EmbeddingTable, user: str, query: SequenceQuery
) -> None:
    as_of, sequences = SequenceReader(filled.store, embeddings).read(user, query)
    assert as_of == AsOf(3, filled.store.applied_offset, MAX_TIMESTAMP_MS, 0)
    assert tuple(sequences) == query.kinds
    for kind, found in sequences.items():
        everything = filled.kept(user, kind)
        expected = [
            event
            for event in everything
            if (query.from_timestamp_ms is None or event.timestamp_ms >= query.from_timestamp_ms)
            and (query.to_timestamp_ms is None or event.timestamp_ms < query.to_timestamp_ms)
            and (not query.action_types or event.code >> 8 in query.action_types)
        ]
        if query.newest is not None:
            expected = expected[len(expected) - min(query.newest, len(expected)) :]
        assert (found.length, found.stored) == (len(expected), len(everything))
        check_columns(found, expected, query.columns)


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


@given(users=st.lists(st.sampled_from([*sorted(USERS), "unknown"]), max_size=8), query=QUERIES)
def test_many_users_are_read_as_each_alone(
    filled: Filled, embeddings: EmbeddingTable, users: list[str], query: SequenceQuery
) -> None:
    reader = SequenceReader(filled.store, embeddings)
    answers = reader.read_many(users, query)
    assert len(answers) == len(users)
    for user, answer in zip(users, answers, strict=True):
        alone = reader.read(user, query)
        assert answer.as_of == alone.as_of
        assert list(answer.sequences) == list(alone.sequences)
        for kind, sequence in answer.sequences.items():
            for field in fields(sequence):
                assert np.array_equal(getattr(sequence, field.name), getattr(alone.sequences[kind], field.name))


def test_many_users_are_read_from_one_view(filled: Filled, monkeypatch: pytest.MonkeyPatch) -> None:
    views = 0
    real = filled.store.view

    def view() -> AbstractContextManager[View]:
        nonlocal views
        views += 1
        return real()

    monkeypatch.setattr(filled.store, "view", view)
    reader = SequenceReader(filled.store)
    assert len(reader.read_many(iter(["few", "many", "few"]), EVERYTHING)) == 3
    assert views == 1
    assert reader.read_many([], EVERYTHING) == []


# What is not decoded


@pytest.fixture
def sealed(tmp_path: Path) -> Iterator[PartitionStore]:
    """A store in which ann has nine chunks of four events, moments 0 to 35, and six unsealed ones."""
    opened = open_store(tmp_path, tiny(max_explicit=100))
    opened.apply(batch_of([Event(b"ann", at, at, 257) for at in range(40)]), offset=0)
    opened.apply(batch_of([Event(b"ann", at, at, 257) for at in (40, 41)]), offset=1)
    assert len([*opened.database.chunks.keys()]) == 9
    yield opened
    opened.close()


DECODERS = ("timestamps_into", "ordinals_into", "codes_into")


@pytest.mark.parametrize(
    ("query", "decoded"),
    [
        (SequenceQuery(columns=Column.TIMESTAMP_MS), {"timestamps_into"}),
        (SequenceQuery(columns=Column.ITEM_ID), {"ordinals_into"}),
        (SequenceQuery(columns=Column.EMBEDDING), {"ordinals_into"}),
        (SequenceQuery(columns=Column.SURFACE), {"codes_into"}),
        (SequenceQuery(columns=Column.ACTION_TYPE), {"codes_into"}),
        (SequenceQuery(columns=Column.ITEM_ID | Column.SURFACE), {"ordinals_into", "codes_into"}),
        (SequenceQuery(columns=Column.ITEM_ID, from_timestamp_ms=9), {"timestamps_into", "ordinals_into"}),
        (SequenceQuery(columns=Column.ITEM_ID, to_timestamp_ms=9), {"timestamps_into", "ordinals_into"}),
        (SequenceQuery(columns=Column.ITEM_ID, action_types=frozenset({1})), {"ordinals_into", "codes_into"}),
        (SequenceQuery(columns=Column.TIMESTAMP_MS, newest=6), set()),
        (SequenceQuery(), set(DECODERS)),
    ],
)
def test_a_column_that_is_not_needed_is_not_decoded(
    sealed: PartitionStore, monkeypatch: pytest.MonkeyPatch, query: SequenceQuery, decoded: set[str]
) -> None:
    expected = SequenceReader(sealed).read("ann", query).sequences[Kind.EXPLICIT]

    def refuse(*_: object) -> None:
        raise AssertionError("this column is not needed")

    for name in DECODERS:
        if name not in decoded:
            monkeypatch.setattr(Chunk, name, refuse)
    found = SequenceReader(sealed).read("ann", query).sequences[Kind.EXPLICIT]
    for field in fields(found):
        assert np.array_equal(getattr(found, field.name), getattr(expected, field.name))
    # And those that are, are: the test would notice.
    for name in decoded:
        with monkeypatch.context() as patching:
            patching.setattr(Chunk, name, refuse)
            with pytest.raises(AssertionError, match="not needed"):
                SequenceReader(sealed).read("ann", query)


@pytest.mark.parametrize(
    ("query", "looked_at", "decoded"),
    [
        (SequenceQuery(newest=0), 0, 0),
        (SequenceQuery(newest=6), 0, 0),
        (SequenceQuery(newest=7), 1, 1),
        (SequenceQuery(newest=10), 1, 1),
        (SequenceQuery(newest=11), 2, 2),
        (SequenceQuery(newest=1_000), 9, 9),
        (SequenceQuery(from_timestamp_ms=30), 2, 2),
        # At the first moment of a chunk: the one before may end at the same moment.
        (SequenceQuery(from_timestamp_ms=32), 2, 2),
        (SequenceQuery(from_timestamp_ms=0), 9, 9),
        (SequenceQuery(to_timestamp_ms=8), 9, 2),
        (SequenceQuery(from_timestamp_ms=9, to_timestamp_ms=13), 7, 2),
        (SequenceQuery(from_timestamp_ms=9, newest=8), 1, 1),
        (SequenceQuery(newest=2, action_types=frozenset({1})), 9, 9),
    ],
)
def test_only_chunks_that_matter_are_decoded(
    sealed: PartitionStore, monkeypatch: pytest.MonkeyPatch, query: SequenceQuery, looked_at: int, decoded: int
) -> None:
    counts = {"open": 0, "ordinals_into": 0}
    real_open, real_ordinals = Chunk.open, Chunk.ordinals_into

    def open_(data: bytes) -> Chunk:
        counts["open"] += 1
        return real_open(data)

    def ordinals_into(chunk: Chunk, into: NDArray[np.uint32]) -> None:
        counts["ordinals_into"] += 1
        real_ordinals(chunk, into)

    monkeypatch.setattr(Chunk, "open", open_)
    monkeypatch.setattr(Chunk, "ordinals_into", ordinals_into)
    found = SequenceReader(sealed).read("ann", query).sequences[Kind.EXPLICIT].timestamp_ms
    since, until = query.from_timestamp_ms or 0, 42 if query.to_timestamp_ms is None else query.to_timestamp_ms
    newest = 42 if query.newest is None else query.newest
    assert found is not None
    assert found.tolist() == list(range(max(since, until - newest), until))
    assert (counts["open"], counts["ordinals_into"]) == (looked_at, decoded)


@pytest.mark.parametrize("newest", [1, 3, 9, 12, 29, 30, 31, 110, 111])
def test_the_newest_are_found_among_runs_raw_segments_and_inline_events(tmp_path: Path, newest: int) -> None:
    # Late events stand in the newest segments, and new ones in the oldest run.
    shape = tiny(max_explicit=500, chunk_events=300, keep_unsealed=100, inline_events=4, run_segments=8)
    store = open_store(tmp_path, shape)
    moments = [*range(0, 200, 2), 1_000, *range(201, 215, 3), *range(1, 60, 4), 500, 501, 3, 5]
    at, offset = 0, 0
    for size in (90, 20, 6, 5, 6, 1, 3, 4, 2, 90):
        store.apply(batch_of([Event(b"ann", moment, moment, 257) for moment in moments[at : at + size]]), offset=offset)
        at, offset = at + size, offset + 1
    found = SequenceReader(store).read("ann", SequenceQuery(newest=newest)).sequences[Kind.EXPLICIT]
    assert found.timestamp_ms is not None
    assert found.timestamp_ms.tolist() == sorted(set(moments))[-newest:]
    assert found.stored == len(set(moments))
    store.close()


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


@pytest.mark.parametrize("head_cache_mib", [0.001, 16.0])
def test_a_view_is_of_one_moment_while_a_thread_writes(tmp_path: Path, head_cache_mib: float) -> None:
    # Offset k gives both sequences the events of moment k, some of them late, and now and then erases the user: what
    # is seen must be exactly the offsets up to as_of, in the middle of seals and trims or not.
    shape = tiny(max_explicit=50, max_impressions=21, head_cache_mib=head_cache_mib)
    store = open_store(tmp_path, shape)
    reader, done, wrong, watched = SequenceReader(store), threading.Event(), list[str](), set[int]()
    last, erased_every = 600, 97

    def moments(offset: int) -> list[int]:
        return [offset * 10, offset * 10 + 1, max(0, offset - 4) * 10 + 5]

    @cache
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
