import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from lifeline.store import id_index
from lifeline.store.id_hash import SEED, HashSeed
from lifeline.store.id_index import IdIndex
from tests.support.id_index import MEETING

IDS = st.integers(0, 9) | st.integers(0, (1 << 64) - 1) | st.sampled_from([0, 1 << 63, (1 << 64) - 1])


@contextmanager
def quick_switches() -> Iterator[None]:
    """Let threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


@given(st.lists(st.lists(IDS, max_size=60), max_size=8), st.integers(0, 8))
@example([[3, 3, 1], [1, 3, 2]], 0)
def test_it_is_a_dict_in_order_of_first_sight(batches: list[list[int]], reopen_at: int) -> None:
    index, known = IdIndex(), dict[int, int]()
    for number, batch in enumerate(batches):
        if number == reopen_at:
            index = IdIndex(index.ids.copy())
        ids = np.array(batch, np.uint64)
        before = [known.get(value, -1) for value in batch]
        assert index.find(ids).tolist() == before
        expected = [known.setdefault(value, len(known)) for value in batch]
        assert index.add(ids).tolist() == expected
        assert len(index) == len(known)
        assert index.ids.tolist() == list(known)


@pytest.mark.parametrize("step", [1, 1_000, 1 << 32, 1 << 48, 0x9E3779B97F4A7C15])
def test_ids_in_even_steps_are_told_apart(step: int) -> None:
    ids = np.arange(6_000, dtype=np.uint64) * np.uint64(step)
    index = IdIndex()
    for at in range(0, len(ids), 700):
        index.add(ids[at : at + 700])
    assert index.find(ids).tolist() == list(range(6_000))
    assert (index.find(ids + np.uint64(1 << 61)) == -1).all()


_INVERSE = np.uint64(pow(id_index._FIBONACCI, -1, 1 << 64))


def test_ids_that_meet_in_every_level_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(id_index, "_FIBONACCI", 1)
    ids = np.random.default_rng(0).permutation(np.arange(1_300, dtype=np.uint64))
    index = IdIndex(ids[:900], MEETING)
    assert index.add(ids).tolist() == list(range(1_300))
    assert index.find(ids).tolist() == list(range(1_300))
    assert (index.find(ids + np.uint64(1_300)) == -1).all()
    # The slots that follow the last one are the first ones.
    full = np.arange(1 << 12, dtype=np.uint64)
    slots = [set(id_index._slots(ids[:1], len(full), MEETING, step).tolist()) for step in range(5, 5 + len(full))]
    assert set().union(*slots) == set(range(len(full)))


def test_an_id_has_a_slot_in_each_level() -> None:
    ids = np.random.default_rng(0).integers(0, 1 << 64, 10_000, np.uint64)
    for size in (1 << 12, 1 << 22):
        for level in range(6):
            slots = id_index._slots(ids, size, SEED, level)
            assert size >> level + 1 <= slots.min()
            assert slots.max() < size >> level
            # Ids that meet in one level part in the others.
            assert len(np.unique(slots)) > 0.6 * min(len(ids), size >> level + 1)


def test_a_million_ids_take_25_megabytes() -> None:
    ids = np.random.default_rng(0).permutation(np.arange(1_000_000, dtype=np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
    index = IdIndex(ids)
    assert len(index) == 1_000_000
    assert np.array_equal(index.find(ids), np.arange(1_000_000))
    assert np.array_equal(index.ids, ids)
    assert (index.find(ids[:1_000] + np.uint64(1)) == -1).all()
    assert index._ids.nbytes + index._table.nbytes < 25.5e6


def test_it_grows_and_keeps_every_ordinal() -> None:
    rng = np.random.default_rng(0)
    ids = np.unique(rng.integers(0, 1 << 63, 60_000).astype(np.uint64))
    rng.shuffle(ids)
    index, at = IdIndex(), 0
    for size in (1, 1_023, 1, 1_024, 5_000, 30_000, len(ids)):
        index.add(ids[at : at + size])
        at += size
        assert index.find(ids[:at]).tolist() == list(range(min(at, len(ids))))
    assert (index.find(rng.integers(1 << 63, 1 << 64, 1_000, np.uint64)) == -1).all()


def test_an_empty_index_finds_nothing() -> None:
    index = IdIndex()
    assert index.find(np.array([0, 1], np.uint64)).tolist() == [-1, -1]
    assert index.find(np.empty(0, np.uint64)).tolist() == []
    assert index.add(np.empty(0, np.uint64)).tolist() == []
    assert len(index) == len(index.ids) == 0


def test_readers_see_right_ordinals_while_it_grows() -> None:
    ids = np.random.default_rng(1).permutation(np.arange(1, 40_001, dtype=np.uint64)) * np.uint64(77)
    index, done, wrong = IdIndex(), threading.Event(), list[str]()

    def read() -> None:
        rng = np.random.default_rng()
        while not done.is_set():
            at_least = len(index)
            rows = rng.integers(0, len(ids), 500)
            found = index.find(ids[rows])
            if not ((found == rows) | (found == -1)).all():
                wrong.append("an ordinal of another id")
            if (found[rows < at_least] == -1).any():
                wrong.append("an id that was known is not found")

    readers = [threading.Thread(target=read) for _ in range(2)]
    with quick_switches():
        for reader in readers:
            reader.start()
        for at in range(0, len(ids), 613):
            index.add(ids[at : at + 613])
        done.set()
        for reader in readers:
            reader.join(20)
    assert not wrong


class Interrupted(IdIndex):
    """Lets others in at the two moments at which the table and its ids may not fit each other."""

    def __init__(self) -> None:
        self.between: Callable[[], object] | None = None
        super().__init__()

    def _let_in(self, name: str) -> None:
        if name in ("_ids", "_table") and self.between is not None:
            between, self.between = self.between, None
            between()

    def __getattribute__(self, name: str) -> Any:
        value = super().__getattribute__(name)
        if name in ("_ids", "_table"):
            self._let_in(name)
        return value

    def __setattr__(self, name: str, value: object) -> None:
        super().__setattr__(name, value)
        self._let_in(name)


def full_index(seed: int) -> tuple[Interrupted, NDArray[np.uint64], NDArray[np.uint64]]:
    """Return an index that grows with the next id, what it knows, and what it may learn."""
    ids = np.random.default_rng(seed).permutation(np.arange(9_000, dtype=np.uint64)) * np.uint64(1 << 40 | 77)
    index = Interrupted()
    index.add(ids[:1_024])
    return index, ids[:1_024], ids[1_024:]


@pytest.mark.parametrize("seed", range(20))
def test_a_reader_may_be_overtaken_by_growth(seed: int) -> None:
    index, known, new = full_index(seed)
    index.between = lambda: index.add(new)
    found = index.find(np.concatenate([known, new]))
    assert len(index) == 9_000
    assert found[:1_024].tolist() == list(range(1_024))
    assert ((found[1_024:] == -1) | (found[1_024:] == np.arange(1_024, 9_000))).all()


@pytest.mark.parametrize("seed", range(20))
def test_a_reader_may_come_in_the_middle_of_growth(seed: int) -> None:
    index, known, new = full_index(seed)
    found: list[NDArray[np.int64]] = []
    # Armed when the larger arrays are put in place, between the first and the second.
    real = index._resize

    def resize(ids: NDArray[np.uint64]) -> None:
        index.between = lambda: found.append(index.find(np.concatenate([known, new])))
        real(ids)

    vars(index)["_resize"] = resize
    index.add(new)
    assert len(found) == 1
    assert found[0][:1_024].tolist() == list(range(1_024))
    assert ((found[0][1_024:] == -1) | (found[0][1_024:] == np.arange(1_024, 9_000))).all()
    assert index.find(new).tolist() == list(range(1_024, 9_000))


def test_a_reader_may_come_in_the_middle_of_an_addition(monkeypatch: pytest.MonkeyPatch) -> None:
    # All meet 0 in its slot; what no id has yet reads as 0.
    index, new = IdIndex(), np.arange(1, 200, dtype=np.uint64) * _INVERSE
    found: list[NDArray[np.int64]] = []
    real = id_index._insert

    def insert(table: NDArray[np.uint32], ids: NDArray[np.uint64], first: int, seed: HashSeed) -> None:
        real(table, ids, first, seed)
        found.append(index.find(np.append(new, np.uint64(0))))

    monkeypatch.setattr(id_index, "_insert", insert)
    index.add(new)
    assert len(found) == 1
    assert found[0][-1] == -1
    assert ((found[0][:-1] == -1) | (found[0][:-1] == np.arange(199))).all()


@given(st.lists(st.tuples(st.lists(IDS, max_size=60), st.booleans()), max_size=12), st.sampled_from([SEED, MEETING]))
def test_ids_of_a_batch_that_failed_are_forgotten(batches: list[tuple[list[int], bool]], seed: HashSeed) -> None:
    index, known = IdIndex(seed=seed), dict[int, int]()
    for batch, is_kept in batches:
        ids, before = np.array(batch, np.uint64), len(index)
        index.add(ids)
        if is_kept:
            for value in batch:
                known.setdefault(value, len(known))
        else:
            index.truncate(before)
        assert index.ids.tolist() == list(known)
        assert index.find(index.ids).tolist() == list(range(len(known)))
        assert index.find(ids).tolist() == [known.get(value, -1) for value in batch]


def test_ids_are_forgotten_also_when_the_table_has_grown_for_them() -> None:
    index, ids = IdIndex(), np.random.default_rng(5).integers(1 << 63, size=9_000, dtype=np.uint64)
    index.add(ids[:1_000])
    for _ in range(3):
        index.add(ids[1_000:])
        index.truncate(1_000)
        assert index.find(ids).tolist() == [*range(1_000), *[-1] * 8_000]
    assert index.add(ids).tolist() == list(range(9_000))
