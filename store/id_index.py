"""Item ids to dense ordinals, in order of first sight: hashing in levels, on whole batches, in NumPy.

One array of slots holds all levels: level 0 is its upper half, level 1 the upper half of what is left, and so on. An
id has one slot in each level, and lies in the first one that was free. Level 0 is at most half full, so that few ids
of a batch are looked for in level 1, and hardly any below; where every level is taken, the slots that follow are
tried. A slot holds an ordinal + 1, or 0 when it is free. An id is never moved, and never leaves.

Consecutive ids never meet in level 0 (Fibonacci hashing). Producers can choose ids that all meet there, which costs
one more look each: where an id lies below depends on a seed that they do not know (id_hash.py).

A million ids take 25 MB (8 for the ids, 17 for the slots), where a dict takes 134 MB.
"""

import numpy as np
from numpy.typing import NDArray

from lifeline.store.id_hash import LEVELS, SEED, HashSeed, hashed

_SMALLEST = 1 << 10
_SLOTS_PER_ID = 4
_FIBONACCI = 0x9E3779B97F4A7C15


class IdIndex:
    """A growing set of uint64 ids, each with the ordinal at which it was first added.

    One writer at a time, and any number of readers beside it: they find every id that was in before they began, and
    never a wrong ordinal.
    """

    def __init__(self, ids: NDArray[np.uint64] | None = None, seed: HashSeed = SEED) -> None:
        """`ids` are the ids of ordinals 0, 1, ...; they must be distinct. Where each lies depends on the seed."""
        ids = np.empty(0, np.uint64) if ids is None else ids
        self._seed = seed
        self._count = len(ids)
        self._resize(ids)

    def __len__(self) -> int:
        return self._count

    @property
    def ids(self) -> NDArray[np.uint64]:
        """uint64[len(self)]: the id of each ordinal."""
        return self._ids[1 : self._count + 1]

    def find(self, ids: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Return int64[n]: the ordinal of each id, -1 where it has none."""
        # The table first: the ids that are read after it can only know more.
        table = self._table
        known = self._ids
        ordinals, pending = _look(table, known, ids, self._seed, 0)
        step = 1
        while len(pending):
            found, onward = _look(table, known, ids.take(pending), self._seed, step)
            ordinals[pending] = found
            pending = pending.take(onward)
            step += 1
        return ordinals

    def add(self, ids: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Return int64[n]: the ordinal of each id, giving new ids the next ordinals in order of first sight."""
        ordinals = self.find(ids)
        unknown = (ordinals < 0).nonzero()[0]
        if len(unknown):
            new, order = _by_first_sight(ids.take(unknown))
            ordinals[unknown] = order + self._count
            self._append(new)
        return ordinals

    def _append(self, new: NDArray[np.uint64]) -> None:
        start, end = self._count, self._count + len(new)
        if end < len(self._ids):
            # An id is there before a slot says so.
            self._ids[start + 1 : end + 1] = new
            _insert(self._table, new, start, self._seed)
        else:
            self._resize(np.concatenate([self.ids, new]))
        self._count = end

    def _resize(self, ids: NDArray[np.uint64]) -> None:
        capacity = max(_SMALLEST, 1 << (len(ids) - 1).bit_length())
        # Both arrays are new, so that a reader never holds a table that knows more than its ids. Those begin with a
        # place that no id has, for slots that are free.
        grown = np.zeros(1 + capacity, np.uint64)
        grown[1 : len(ids) + 1] = ids
        table = np.zeros(_SLOTS_PER_ID * capacity, np.uint32)
        _insert(table, ids, 0, self._seed)
        self._ids = grown
        self._table = table


def _slots(ids: NDArray[np.uint64], size: int, seed: HashSeed, step: int) -> NDArray[np.int64]:
    """Return int64[n]: where each id may lie at a step, in a table of `size` slots."""
    level = min(step, LEVELS)
    bits = size.bit_length() - 2 - level
    slots: NDArray[np.uint64] = hashed(ids, seed, level - 1) if level else ids * np.uint64(_FIBONACCI)
    slots >>= 64 - bits
    slots |= 1 << bits
    if step > level:
        slots += step - level
        slots &= size - 1
    return slots.view(np.int64)


def _look(
    table: NDArray[np.uint32], known: NDArray[np.uint64], ids: NDArray[np.uint64], seed: HashSeed, step: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return int64[n], ordinals, -1 at free slots, and which ids met another id: they are to be looked for onward."""
    # Every index is in range; "clip" spares the check.
    places = table.take(_slots(ids, len(table), seed, step), mode="clip")
    others = known.take(places, mode="clip") != ids
    others &= places != 0
    return np.subtract(places, 1, dtype=np.int64), others.nonzero()[0]


def _insert(table: NDArray[np.uint32], ids: NDArray[np.uint64], first: int, seed: HashSeed) -> None:
    """Put distinct ids, whose ordinals are `first`, `first` + 1, ..., each into the first free slot on its way."""
    places = np.arange(first + 1, first + 1 + len(ids), dtype=np.uint32)
    step = 0
    while len(places):
        slots = _slots(ids, len(table), seed, step)
        free = (table.take(slots, mode="clip") == 0).nonzero()[0]
        # Of several ids that meet at one free slot, the last one written has it.
        table[slots.take(free)] = places.take(free)
        left = (table.take(slots, mode="clip") != places).nonzero()[0]
        places, ids = places.take(left), ids.take(left)
        step += 1


def _by_first_sight(ids: NDArray[np.uint64]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Return the distinct ids in order of first sight, and int64[n]: the place of each id among them."""
    ascending = np.sort(ids)
    if (ascending[1:] != ascending[:-1]).all():
        return ids, np.arange(len(ids))
    _, first, inverse = np.unique(ids, return_index=True, return_inverse=True)
    order = first.argsort()
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return ids[first[order]], rank[inverse]
