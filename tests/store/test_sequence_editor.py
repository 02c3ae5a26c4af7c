"""Sequences against plain Python sets, under shapes so small that every part of the layout is met all the time."""

import random
import shutil
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from lifeline.core.actions import MAX_TIMESTAMP_MS, NO_LOG_TIME, ActionBatch, Kind
from lifeline.store.memory import SharedMemory
from lifeline.store.partition import PartitionStore
from lifeline.store.settings import StoreSettings
from lifeline.store.statistics import files_in
from tests.support.factories import HOUR_MS, Event, Model, batch_of, open_store, tiny
from tests.support.layout import check_layout

USERS = [b"ann", b"bob", "Ünal".encode()]
CODES = [0, 257, 258, 0xFFFF]
DAY_MS = 24 * HOUR_MS
EXTREMES = [-(1 << 63), MAX_TIMESTAMP_MS]
# Milliseconds beside each other, whole seconds, and steps that make events expire.
SCALES = [1, 1_000, HOUR_MS // 2, HOUR_MS, 9 * HOUR_MS, DAY_MS]
TIMESTAMPS = st.builds(
    lambda at, scale, by: at * scale + by, st.integers(-2, 14), st.sampled_from(SCALES), st.integers(-1, 1)
)
EVENTS = st.builds(
    Event,
    user=st.sampled_from(USERS),
    timestamp_ms=TIMESTAMPS,
    item_id=st.sampled_from([0, 7, 1 << 63, (1 << 64) - 1]),
    code=st.sampled_from(CODES),
    kind=st.sampled_from(Kind),
    logged_ms=st.sampled_from([NO_LOG_TIME, MAX_TIMESTAMP_MS]) | TIMESTAMPS,
)
BATCHES = st.lists(EVENTS, max_size=25)
SHAPES = st.builds(
    tiny,
    max_explicit=st.sampled_from([1, 7, 12, 40, 200]),
    max_impressions=st.sampled_from([3, 9, 150]),
    max_explicit_age_days=st.sampled_from([None, None, 1, 2, 5]),
    max_impression_age_days=st.sampled_from([None, 1, 3]),
    chunk_events=st.sampled_from([2, 4, 5, 40]),
    keep_unsealed=st.sampled_from([1, 3, 4, 70]),
    inline_events=st.sampled_from([1, 2, 6, 70]),
    run_segments=st.sampled_from([2, 3, 8]),
    head_cache_mib=st.sampled_from([0.001, 16.0]),
)


@cache
def memory(head_cache_mib: float) -> SharedMemory:
    return SharedMemory(tiny(head_cache_mib=head_cache_mib))


def opened(path: Path, shape: StoreSettings) -> PartitionStore:
    return PartitionStore.open(path, partition=3, settings=shape, memory=memory(shape.head_cache_mib))


def copy_of_a_moment(path: Path, into: Path) -> None:
    """Copy the files of an open store; again when they changed meanwhile."""
    deadline = time.monotonic() + 30

    def listing() -> set[tuple[str, int]]:
        return {(file.name, size) for file, size in files_in(path) if not file.name.startswith("LOG")}

    while time.monotonic() < deadline:
        before = listing()
        with suppress(shutil.Error):
            shutil.copytree(path, into)
            if listing() == before:
                return
        shutil.rmtree(into, ignore_errors=True)
    raise AssertionError("the files never stood still")


class PartitionMachine(RuleBasedStateMachine):
    """One partition, whatever comes."""

    @initialize(shape=SHAPES, extremes=st.sampled_from([False, False, False, True]))
    def begin(self, shape: StoreSettings, extremes: bool) -> None:
        self.shape, self.model, self.extremes = shape, Model(shape), extremes
        self.path = Path(tempfile.mkdtemp(prefix="lifeline-"))
        self.offset, self.seen = -1, list[list[Event]]()
        self.store = opened(self.path / "p", shape)

    def _apply(self, events: list[Event], step: int = 1) -> None:
        before = self.store.state.events
        self.offset += step
        expired = self.model.apply(events)
        result = self.store.apply(batch_of(events), offset=self.offset)
        assert result.inserted + result.repeated == len(events)
        assert result.expired == expired
        assert result.inserted - result.trimmed - result.expired == self.store.state.events - before
        self.seen.append(events)

    @rule(events=BATCHES, step=st.integers(1, 1_000))
    def apply(self, events: list[Event], step: int) -> None:
        self._apply(events, step)

    @rule(
        user=st.sampled_from(USERS),
        start=st.integers(-5, 60),
        n=st.integers(1, 90),
        kind=st.sampled_from(Kind),
        scale=st.sampled_from(SCALES),
    )
    def apply_a_run(self, user: bytes, start: int, n: int, kind: Kind, scale: int) -> None:
        # In time most of all: this is what seals.
        self._apply([Event(user, (start + at // 2) * scale, at % 2, 257, kind) for at in range(n)])

    @rule(user=st.sampled_from(USERS), at=st.integers(-5, 70), n=st.integers(9, 90), scale=st.sampled_from(SCALES))
    def apply_many_at_one_moment(self, user: bytes, at: int, n: int, scale: int) -> None:
        self._apply([Event(user, at * scale, number * 37 % 97, 300) for number in range(n)])

    @rule(user=st.sampled_from(USERS), kind=st.sampled_from(Kind), below=st.integers(0, 9), above=st.integers(1, 40))
    def apply_at_both_ends(self, user: bytes, kind: Kind, below: int, above: int) -> None:
        # The oldest chunk takes the late ones, moves its fence, and may be trimmed away by the new ones at once.
        kept = [each.timestamp_ms for each in self.model.identities(user, kind) if abs(each.timestamp_ms) < 1 << 40]
        low, high = (kept[0], kept[-1]) if kept else (0, 0)
        moments = [*range(low - below, low), *range(high + 1, high + 1 + above)]
        self._apply([Event(user, at, at % 3, 257, kind) for at in moments])

    @rule(
        user=st.sampled_from(USERS),
        kind=st.sampled_from(Kind),
        hours=st.integers(0, 30),
        late=st.lists(st.integers(0, 130), max_size=12),
        n=st.integers(1, 12),
    )
    def let_time_pass(self, user: bytes, kind: Kind, hours: int, late: list[int], n: int) -> None:
        # The watermark moves on a little, and what comes late is on either side of the horizon.
        now = min(self.model.watermark_ms // HOUR_MS + hours, MAX_TIMESTAMP_MS // HOUR_MS - 1) * HOUR_MS
        moments = [*range(now, now + n), *(now - HOUR_MS * back - (back & 1) for back in late)]
        self._apply([Event(user, at, at % 5, 257, kind) for at in moments])

    @precondition(lambda self: self.extremes)
    @rule(user=st.sampled_from(USERS), kind=st.sampled_from(Kind), at=st.sampled_from(EXTREMES), n=st.integers(1, 9))
    def apply_at_the_ends_of_time(self, user: bytes, kind: Kind, at: int, n: int) -> None:
        self._apply([Event(user, at, number, 0, kind) for number in range(n)])

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
        self.store = opened(self.path / "p", self.shape)

    @rule()
    def crash(self) -> None:
        # The files as a kill would leave them; kills of real processes are in test_partition_faults.py.
        copy_of_a_moment(self.path / "p", self.path / "killed")
        self.store.close()
        shutil.rmtree(self.path / "p")
        (self.path / "killed").rename(self.path / "p")
        self.store = opened(self.path / "p", self.shape)

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


def whole(events: Iterable[Event], shape: StoreSettings) -> Model:
    """Return what a set of events comes to, each of them looked at once."""
    model = Model(shape)
    model.apply(set(events))
    return model


@given(
    events=st.lists(EVENTS, min_size=1, max_size=120),
    at_the_ends=st.lists(
        EVENTS.flatmap(lambda event: st.sampled_from([event._replace(timestamp_ms=at) for at in EXTREMES])), max_size=2
    ),
    shape=SHAPES,
    seed=st.integers(0, 1 << 32),
)
@settings(max_examples=40)
def test_the_order_of_arrival_does_not_matter(
    tmp_path_factory: pytest.TempPathFactory,
    events: list[Event],
    at_the_ends: list[Event],
    shape: StoreSettings,
    seed: int,
) -> None:
    rng = random.Random(seed)
    # A multiset, and now and then the ends of time, which make everything else too old.
    events = [*events, *rng.choices(events, k=len(events) // 4), *(at_the_ends if seed % 4 == 0 else [])]
    model = whole(events, shape)
    for arrival in (events, sorted(events), sorted(events, reverse=True), rng.sample(events, len(events))):
        store = opened(tmp_path_factory.mktemp("p"), shape)
        at = 0
        while at < len(arrival):
            size = rng.choice([1, 2, 5, 30, len(arrival)])
            store.apply(batch_of(arrival[at : at + size]), offset=at)
            at += size
        model.check(store)
        check_layout(store, shape)
        store.close()


@cache
def six_days(age_days: int | None) -> tuple[StoreSettings, list[Event], Model]:
    """Return 20,000 actions of six days, and what they come to; the newest 16,384 are of the last five days."""
    shape = StoreSettings(block_cache_mib=8, write_buffer_mib=8, max_explicit_age_days=age_days)
    events = [Event(b"ann", 26_000 * (number // 3) * 3, number % 977, 257 + number % 4) for number in range(20_000)]
    assert len(set(events)) == 20_000
    return shape, events, whole(events, shape)


@pytest.mark.parametrize("age_days", [None, 3])
@pytest.mark.parametrize("batch", [500, 5_000, 20_000])
@pytest.mark.parametrize("order", ["in-order", "backwards", "shuffled", "newest-half-first"])
def test_a_user_with_20_000_actions_keeps_the_newest_16_384(
    tmp_path: Path, order: str, batch: int, age_days: int | None
) -> None:
    shape, events, model = six_days(age_days)
    arrival = {
        "in-order": events,
        "backwards": events[::-1],
        "shuffled": random.Random(batch).sample(events, len(events)),
        "newest-half-first": events[10_000:] + events[:10_000],
    }[order]
    assert model.events == 16_384 if age_days is None else 8_000 < model.events < 16_384
    store = open_store(tmp_path, shape)
    for at in range(0, len(arrival), batch):
        store.apply(batch_of(arrival[at : at + batch]), offset=at)
    model.check(store)
    check_layout(store, shape)
    # All of it once more: nothing is new.
    store.apply(batch_of(arrival), offset=20_000)
    model.check(store)
    assert store.apply(ActionBatch.empty(), offset=20_001) == (0, 0, 0, 0, 0, 0)
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
    handle = store.database.chunks
    for key in list(handle.keys()):
        handle[key] = b"broken"
    for at in range(40, 80):
        store.apply(batch_of([Event(b"ann", at, 1, 257)]), offset=at)
    assert store.state.events == 80
    store.close()
