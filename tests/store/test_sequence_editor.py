"""Sequences against plain Python sets, under shapes so small that every part of the layout is met all the time."""

import random
import shutil
import tempfile
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from store import chunk
from store.actions import ActionBatch, Identity, Kind
from store.head import Head, segment_events, unpack_events
from store.keys import HEAD_SUFFIX, chunk_fence, head_key, segment_key
from store.memory import SharedMemory
from store.partition import PartitionStore
from store.settings import StoreSettings
from tests.store.made import Event, Model, batch_of, open_store, rows_of, tiny

USERS = [b"ann", b"bob", "Ünal".encode()]
CODES = [0, 257, 258, 0xFFFF]
EVENTS = st.builds(
    Event,
    user=st.sampled_from(USERS),
    timestamp_ms=st.integers(-2, 14) | st.sampled_from([-(1 << 63), (1 << 63) - 1]),
    item_id=st.sampled_from([0, 7, 1 << 63, (1 << 64) - 1]),
    code=st.sampled_from(CODES),
    kind=st.sampled_from(Kind),
)
BATCHES = st.lists(EVENTS, max_size=25)
SHAPES = st.builds(
    tiny,
    max_explicit=st.sampled_from([1, 7, 12, 40]),
    max_impressions=st.sampled_from([3, 9]),
    chunk_events=st.sampled_from([2, 4, 5]),
    inline_events=st.sampled_from([1, 2, 6]),
    head_cache_entries=st.sampled_from([1, 65_536]),
)


@cache
def memory() -> SharedMemory:
    return SharedMemory(tiny())


def check_layout(store: PartitionStore, shape: StoreSettings) -> None:
    """Assert the invariants of the records themselves, and that nothing is left behind on disk."""
    rows: dict[bytes, bytes] = {}
    chunks: dict[bytes, bytes] = {}
    with store.view() as view:
        for iterator, into in ((view.rows, rows), (view.chunks, chunks)):
            iterator.seek_to_first()
            while iterator.valid():
                into[iterator.key()] = iterator.value()
                iterator.next()
        ids = view.item_ids.tolist()
    for key in [key for key in rows if key.endswith(HEAD_SUFFIX) and len(key) == 18]:
        head = Head.unpack(rows.pop(key))
        prefix = key[:-1]
        assert key == head_key(prefix)
        parts = [
            segment_events(rows.pop(segment_key(prefix, number)))
            for number in range(head.segment_first, head.segment_next)
        ]
        unsealed = sorted(Identity(t, ids[o], c) for t, o, c in rows_of(unpack_events(b"".join(parts) + head.inline)))
        assert len(unsealed) == head.unsealed < shape.seal_at
        mine = {found: chunks.pop(found) for found in sorted(chunks) if found.startswith(prefix)}
        assert bool(mine) == (head.sealed is not None)
        sealed: list[Identity] = []
        for (found, data), (following, _) in pairwise([*mine.items(), (b"\xff" * 40, b"")]):
            events = [Identity(t, ids[o], c) for t, o, c in rows_of(chunk.decode(data))]
            assert 1 <= len(events) < 2 * shape.chunk_events
            assert chunk_fence(found) <= events[0]
            assert following == b"\xff" * 40 or events[-1] < chunk_fence(following)
            sealed += events
        if head.sealed is not None:
            assert chunk_fence(next(iter(mine))) == head.sealed.oldest
            assert len(sealed) - head.sealed.skip == head.sealed.events > 0
            assert sealed[-1] <= head.sealed.mark
            assert not unsealed or head.sealed.mark < unsealed[0]
            sealed = sealed[head.sealed.skip :]
        everything = sealed + unsealed
        assert all(left < right for left, right in pairwise(everything))
        assert 1 <= len(everything) == head.events <= shape.cap(Kind(prefix[-1]))
        assert everything[-1] == head.newest
    assert not rows, "segments that belong to no head"
    assert not chunks, "chunks that belong to no head"


class PartitionMachine(RuleBasedStateMachine):
    """One partition, whatever comes."""

    @initialize(shape=SHAPES)
    def begin(self, shape: StoreSettings) -> None:
        self.shape, self.model = shape, Model(shape)
        self.path = Path(tempfile.mkdtemp(prefix="lifeline-"))
        self.offset, self.seen = -1, list[list[Event]]()
        self.store = self._open()

    def _open(self) -> PartitionStore:
        return PartitionStore.open(self.path, partition=3, settings=self.shape, memory=memory())

    def _apply(self, events: list[Event], step: int = 1) -> None:
        before = self.store.state.events
        self.offset += step
        self.model.apply(events)
        result = self.store.apply(batch_of(events), offset=self.offset)
        assert result.inserted + result.repeated == len(events)
        assert result.inserted - result.trimmed == self.store.state.events - before
        self.seen.append(events)

    @rule(events=BATCHES, step=st.integers(1, 1_000))
    def apply(self, events: list[Event], step: int) -> None:
        self._apply(events, step)

    @rule(user=st.sampled_from(USERS), start=st.integers(-5, 60), n=st.integers(1, 30), kind=st.sampled_from(Kind))
    def apply_a_run(self, user: bytes, start: int, n: int, kind: Kind) -> None:
        # In time most of all: this is what seals.
        self._apply([Event(user, start + at // 2, at % 2, 257, kind) for at in range(n)])

    @rule(user=st.sampled_from(USERS), at=st.integers(-5, 70), n=st.integers(9, 40))
    def apply_many_at_one_moment(self, user: bytes, at: int, n: int) -> None:
        self._apply([Event(user, at, number * 37 % 41, 300) for number in range(n)])

    @rule(user=st.sampled_from(USERS), kind=st.sampled_from(Kind), below=st.integers(0, 9), above=st.integers(1, 40))
    def apply_at_both_ends(self, user: bytes, kind: Kind, below: int, above: int) -> None:
        # The oldest chunk takes the late ones, moves its fence, and may be trimmed away by the new ones at once.
        kept = [each.timestamp_ms for each in self.model.identities(user, kind) if abs(each.timestamp_ms) < 1 << 40]
        low, high = (kept[0], kept[-1]) if kept else (0, 0)
        moments = [*range(low - below, low), *range(high + 1, high + 1 + above)]
        self._apply([Event(user, at, at % 3, 257, kind) for at in moments])

    @precondition(lambda self: self.seen)
    @rule(data=st.data())
    def apply_again(self, data: st.DataObject) -> None:
        # After an erasure this brings back what was there; a plain repeat changes nothing.
        self._apply(data.draw(st.permutations(data.draw(st.sampled_from(self.seen)))))

    @rule(user=st.sampled_from([*USERS, b"nobody"]))
    def erase(self, user: bytes) -> None:
        self.offset += 1
        assert self.store.erase(user, offset=self.offset) == self.model.erase(user)

    @rule(back=st.integers(0, 5))
    def refuse_what_is_applied_already(self, back: int) -> None:
        if self.offset - back >= 0:
            with pytest.raises(ValueError, match="must be skipped"):
                self.store.apply(batch_of([Event(b"ann", 1, 2, 3)]), offset=self.offset - back)
            with pytest.raises(ValueError, match="must be skipped"):
                self.store.erase(b"ann", offset=self.offset - back)

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.store = self._open()

    @rule()
    def compact(self) -> None:
        self.store.compact()

    @invariant()
    def it_is_the_set(self) -> None:
        assert self.store.applied_offset == self.offset
        self.model.check(self.store)
        check_layout(self.store, self.shape)

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
            shutil.rmtree(self.path)


TestPartition = PartitionMachine.TestCase
TestPartition.settings = settings(deadline=None, max_examples=60, stateful_step_count=25)


@given(events=st.lists(EVENTS, min_size=1, max_size=120), shape=SHAPES, seed=st.integers(0, 1 << 32))
@settings(deadline=None, max_examples=40)
def test_the_order_of_arrival_does_not_matter(
    tmp_path_factory: pytest.TempPathFactory, events: list[Event], shape: StoreSettings, seed: int
) -> None:
    rng, model = random.Random(seed), Model(shape)
    model.apply(events)
    for arrival in (events, sorted(events), sorted(events, reverse=True), rng.sample(events, len(events))):
        store = PartitionStore.open(tmp_path_factory.mktemp("p"), partition=3, settings=shape, memory=memory())
        at = 0
        while at < len(arrival):
            size = rng.choice([1, 2, 5, 30, len(arrival)])
            store.apply(batch_of(arrival[at : at + size]), offset=at)
            at += size
        model.check(store)
        check_layout(store, shape)
        store.close()


@pytest.mark.parametrize("batch", [500, 5_000, 20_000])
@pytest.mark.parametrize("order", ["in-order", "backwards", "shuffled", "newest-half-first"])
def test_a_user_with_20_000_actions_keeps_the_newest_16_384(tmp_path: Path, order: str, batch: int) -> None:
    shape = StoreSettings(block_cache_mib=8, write_buffer_mib=8)
    events = [Event(b"ann", 1_000 * (number // 3), number % 977, 257 + number % 4) for number in range(20_000)]
    assert len(set(events)) == 20_000
    arrival = {
        "in-order": events,
        "backwards": events[::-1],
        "shuffled": random.Random(batch).sample(events, len(events)),
        "newest-half-first": events[10_000:] + events[:10_000],
    }[order]
    model = Model(shape)
    model.apply(events)
    store = open_store(tmp_path, shape)
    for at in range(0, len(arrival), batch):
        store.apply(batch_of(arrival[at : at + batch]), offset=at)
    model.check(store)
    check_layout(store, shape)
    assert store.state.events == 16_384
    # All of it once more: nothing is new.
    store.apply(batch_of(arrival), offset=20_000)
    model.check(store)
    assert store.apply(ActionBatch.empty(), offset=20_001) == (0, 0, 0, 0, 0)
    store.close()


def test_a_fence_that_moved_is_trimmed_with_its_chunk(tmp_path: Path) -> None:
    # The late event moves the oldest chunk to a lower fence, and the new ones drop that chunk in the same batch.
    store, model = open_store(tmp_path, tiny()), Model(tiny())
    for offset, moments in enumerate([range(100, 110), [50, *range(200, 221)]]):
        events = [Event(b"ann", at, 1, 257) for at in moments]
        model.apply(events)
        store.apply(batch_of(events), offset=offset)
        model.check(store)
        check_layout(store, tiny())
    store.close()


def test_an_append_reads_no_history(tmp_path: Path) -> None:
    # What is newer than the newest is new without a look: a chunk that cannot be read is not noticed.
    shape = tiny(max_explicit=1_000)
    store = open_store(tmp_path, shape)
    store.apply(batch_of([Event(b"ann", at, 1, 257) for at in range(40)]), offset=0)
    handle = store._chunks
    for key in list(handle.keys()):
        handle[key] = b"broken"
    for at in range(40, 80):
        store.apply(batch_of([Event(b"ann", at, 1, 257)]), offset=at)
    assert store.state.events == 80
    store.close()
