import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from store.id_index import IdIndex

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
@settings(deadline=None)
def test_it_is_a_dict_in_order_of_first_sight(batches: list[list[int]], reopen_at: int) -> None:
    index, known = IdIndex(), dict[int, int]()
    for number, batch in enumerate(batches):
        if number == reopen_at:
            index = IdIndex(index.ids.copy())
        ids = np.array(batch, np.uint64)
        before = [known.get(value, -1) for value in batch]
        assert index.find(ids).tolist() == before
        wanted = [known.setdefault(value, len(known)) for value in batch]
        assert index.add(ids).tolist() == wanted
        assert len(index) == len(known)
        assert index.ids.tolist() == list(known)


@pytest.mark.parametrize("step", [1, 1 << 32, 0x9E3779B97F4A7C15, 0xF1DE83E19937733D])
def test_ids_that_would_meet_in_one_place_are_told_apart(step: int) -> None:
    # The last step is the inverse of the multiplier: the products are 0, 1, 2, ... and share their high bits.
    ids = np.arange(6_000, dtype=np.uint64) * np.uint64(step)
    index = IdIndex()
    for at in range(0, len(ids), 700):
        index.add(ids[at : at + 700])
    assert index.find(ids).tolist() == list(range(6_000))
    assert (index.find(ids + np.uint64(1 << 61)) == -1).all()


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


def test_a_reader_may_be_overtaken_by_growth() -> None:
    index, known, new = Interrupted(), np.arange(900, dtype=np.uint64), np.arange(900, 9_000, dtype=np.uint64)
    index.add(known)
    everything = np.concatenate([known, new])
    index.between = lambda: index.add(new)
    found = index.find(everything)
    assert len(index) == 9_000
    assert found[:900].tolist() == list(range(900))
    assert set(found[900:].tolist()) <= {-1, *range(900, 9_000)}


def test_a_reader_may_come_in_the_middle_of_growth() -> None:
    index, known, new = Interrupted(), np.arange(900, dtype=np.uint64), np.arange(900, 9_000, dtype=np.uint64)
    index.add(known)
    found: list[list[int]] = []
    unknown = index.find(new)
    assert (unknown == -1).all()
    # Armed when the larger arrays are put in place, between the first and the second.
    real = index._resize

    def resize(capacity: int, ids: NDArray[np.uint64]) -> None:
        index.between = lambda: found.append(index.find(np.concatenate([known, new])).tolist())
        real(capacity, ids)

    vars(index)["_resize"] = resize
    index.add(new)
    assert len(found) == 1
    assert found[0][:900] == list(range(900))
    assert index.find(new).tolist() == list(range(900, 9_000))
