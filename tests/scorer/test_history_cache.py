"""History cache: whatever happens to a user, the history equals the one that a read without the cache gives."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lifeline.core.actions import Kind
from lifeline.scorer.features import History, read_history
from lifeline.scorer.history_cache import QUERY, HistoryCache
from lifeline.store.embeddings import EmbeddingTable
from lifeline.store.partition import PartitionStore
from lifeline.store.reader import SequenceReader
from lifeline.store.settings import StoreSettings
from tests.support.factories import TINY_MEMORY, Event, batch_of, open_store
from tests.support.scorer_factories import MINUTE, SMALL, embeddings

ITEMS = 30
MIB = 1 << 20
# So small that a few dozen events seal chunks, merge segments, and trim.
SETTINGS = StoreSettings(
    max_explicit=40, max_impressions=12, chunk_events=8, keep_unsealed=4, inline_events=3, run_segments=2, **TINY_MEMORY
)


class Place:
    """A partition and an embedding table, with users who act."""

    def __init__(self, path: Path) -> None:
        self._path, self._offset = path, -1
        self.embeddings = EmbeddingTable.open(path / "items")
        self.store: PartitionStore = open_store(path / "p0", SETTINGS)
        self.cache = HistoryCache(MIB)

    @property
    def reader(self) -> SequenceReader:
        return SequenceReader(self.store, self.embeddings)

    def act(self, user: str, *rows: tuple[int, int, int], kind: Kind = Kind.EXPLICIT) -> None:
        """Apply (timestamp_ms, item, action type) rows."""
        self._offset += 1
        events = [Event(user.encode(), at, item, action << 8 | 1, kind) for at, item, action in rows]
        self.store.apply(batch_of(events), offset=self._offset)

    def erase(self, user: str) -> None:
        self._offset += 1
        self.store.erase(user.encode(), offset=self._offset)

    def begin_anew(self, user: str) -> None:
        self.erase(user)
        self.act(user, *((number * MINUTE, number % ITEMS, 4) for number in range(60)))

    def embed(self, item: int, seed: int) -> None:
        rows = embeddings(np.random.default_rng(seed), 1)
        ids, versions = np.array([item], np.uint64), np.array([seed], np.uint32)
        self.embeddings.apply(ids, rows, versions, partition=0, offset=seed)

    def reopen(self) -> None:
        self.store.close()
        self.store = open_store(self._path / "p0", SETTINGS)

    def close(self) -> None:
        self.store.close()
        self.embeddings.close()

    def check(self, user: str, *, is_miss: bool | None = None) -> None:
        """Compare with a read without the cache; `is_miss` says whether the cache must have missed."""
        before = self.cache.statistics().misses
        as_of, found = self.cache.history(self.reader, user, SMALL)
        assert as_of.applied_offset == self._offset
        assert_equal(found, read_history(self.reader.read(user, QUERY).sequences, SMALL))
        if is_miss is not None:
            assert self.cache.statistics().misses - before == is_miss


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    for item in range(ITEMS // 2):
        made.embed(item, item + 1)
    made.act("ann", *((number * MINUTE, number % ITEMS, 1 + number % 4) for number in range(60)))
    made.act("ann", *((number * MINUTE, number % ITEMS, 5) for number in range(10)), kind=Kind.IMPRESSION)
    made.act("bob", (MINUTE, 3, 1))
    yield made
    made.close()


def assert_equal(found: History, expected: History) -> None:
    assert found.real_time_from == expected.real_time_from
    for ours, theirs in ((found.explicit, expected.explicit), (found.impressions, expected.impressions)):
        for column in fields(ours):
            np.testing.assert_array_equal(getattr(ours, column.name), getattr(theirs, column.name))


def test_a_history_is_made_once_while_its_user_does_nothing(place: Place) -> None:
    place.check("ann", is_miss=True)
    place.check("ann", is_miss=False)
    # Whatever others do, and with whichever items.
    place.act("bob", (2 * MINUTE, 4, 1), (3 * MINUTE, 1_000, 2))
    place.check("ann", is_miss=False)
    assert place.cache.statistics()[:1] == (1,)


CHANGES: dict[str, Callable[[Place], None]] = {
    "an action": lambda place: place.act("ann", (99 * MINUTE, 7, 2)),
    "an impression": lambda place: place.act("ann", (99 * MINUTE, 7, 5), kind=Kind.IMPRESSION),
    "a late action, among those in chunks": lambda place: place.act("ann", (30 * MINUTE + 1, 8, 2)),
    "so many that the oldest go": lambda place: place.act("ann", *((n * MINUTE, 9, 1) for n in range(100, 120))),
    "an erasure": lambda place: place.erase("ann"),
    "an erasure, and as much again": lambda place: place.begin_anew("ann"),
    "a partition that is opened again": lambda place: place.reopen(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_a_user_does_is_seen_at_once(place: Place, change: str) -> None:
    place.check("ann")
    CHANGES[change](place)
    place.check("ann", is_miss=True)
    place.check("ann", is_miss=False)


def test_a_repeated_action_changes_nothing(place: Place) -> None:
    place.check("ann")
    place.act("ann", (59 * MINUTE, 59 % ITEMS, 1 + 59 % 4))
    place.check("ann", is_miss=False)


@pytest.mark.parametrize("item", [3, ITEMS - 1])
def test_embeddings_are_those_of_now(place: Place, item: int) -> None:
    place.check("ann")
    before = place.cache.history(place.reader, "ann", SMALL)[1]
    place.embed(item, 99)
    place.check("ann", is_miss=False)
    after = place.cache.history(place.reader, "ann", SMALL)[1]
    assert (before.explicit.embedding != after.explicit.embedding).any()


def test_users_that_were_asked_for_longest_ago_go_first(place: Place) -> None:
    for user in ("ann", "bob", "eve"):
        place.check(user)
    sizes = place.cache.statistics().bytes
    place.cache = HistoryCache(sizes - 1)
    for user in ("ann", "bob", "ann", "eve"):
        place.check(user)
    assert place.cache.statistics().entries == 2
    assert place.cache.statistics().bytes < sizes
    place.check("ann", is_miss=False)
    place.check("eve", is_miss=False)
    place.check("bob", is_miss=True)


def test_without_a_budget_none_is_kept(place: Place) -> None:
    place.cache = HistoryCache(0)
    place.check("ann", is_miss=True)
    place.check("ann", is_miss=True)
    assert place.cache.statistics()[:2] == (0, 0)


def test_models_with_another_visit_gap_have_entries_of_their_own(place: Place) -> None:
    place.check("ann")
    other = SMALL.model_copy(update={"visit_gap_ms": MINUTE - 1})
    for _ in range(2):
        _, found = place.cache.history(place.reader, "ann", other)
        assert_equal(found, read_history(place.reader.read("ann", QUERY).sequences, other))
    place.check("ann", is_miss=False)


def test_many_threads_see_every_action(place: Place) -> None:
    def follow(_: int) -> list[int]:
        seen = []
        for _ in range(40):
            as_of, history = place.cache.history(place.reader, "eve", SMALL)
            seen.append((as_of.applied_offset, len(history.explicit)))
        assert seen == sorted(seen)
        return [actions - (offset - start) for offset, actions in seen]

    start = place.store.applied_offset
    with ThreadPoolExecutor(4) as pool:
        followers = [pool.submit(follow, number) for number in range(4)]
        for number in range(30):
            place.act("eve", (number * 60 * MINUTE, number, 1))
        for follower in followers:
            assert set(follower.result()) == {0}


STEPS = st.one_of(
    st.tuples(
        st.just("act"), st.sampled_from(["ann", "bob"]), st.integers(0, 90), st.integers(0, ITEMS), st.integers(1, 6)
    ),
    st.tuples(st.just("show"), st.just("ann"), st.integers(0, 90), st.integers(0, ITEMS), st.integers(1, 3)),
    st.tuples(st.just("embed"), st.just(""), st.integers(0, ITEMS), st.integers(100, 200), st.just(0)),
    st.tuples(st.just("erase"), st.sampled_from(["ann", "bob"]), st.just(0), st.just(0), st.just(0)),
    st.tuples(st.just("ask"), st.sampled_from(["ann", "bob"]), st.just(0), st.just(0), st.just(0)),
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(STEPS, max_size=40))
def test_no_order_of_changes_shows_an_old_history(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, str, int, int, int]]
) -> None:
    place = Place(tmp_path_factory.mktemp("place"))
    try:
        for what, user, at, item, count in steps:
            match what:
                case "act":
                    place.act(user, *((at * MINUTE + number, item, 1 + number % 4) for number in range(count)))
                case "show":
                    rows = ((at * MINUTE + number, item + number, 5) for number in range(count))
                    place.act(user, *rows, kind=Kind.IMPRESSION)
                case "embed":
                    place.embed(at, item)
                case "erase":
                    place.erase(user)
                case _:
                    place.check(user)
        for user in ("ann", "bob"):
            place.check(user)
    finally:
        place.close()
