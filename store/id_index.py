"""A hash table from item ids to dense ordinals, which works on whole batches in NumPy.

The table has several levels in one array of slots: level 0 is the upper half of the array, level 1 the upper half of
the rest, and so on. An id has one candidate slot in each level, and is stored in the first candidate that was free.
Level 0 is at most half full, so few ids need a probe in level 1, and hardly any below. If the candidates of all levels
are taken, linear probing continues from the last one. A slot holds the ordinal + 1, or 0 if it is free. Ids are never
moved, and only the newest are ever removed, when the write that added them has failed.

Consecutive ids do not collide in level 0 (Fibonacci hashing). Producers could choose ids that all collide there; each
then costs one more probe, because the slots of the other levels depend on a secret seed (id_hash.py).

A million ids take 25 MB (8 for the ids, 17 for the slots); a dict takes 134 MB.
"""

import numpy as np
from numpy.typing import NDArray

from lifeline.store.id_hash import LEVELS, SEED, HashSeed, hash_ids

_SMALLEST = 1 << 10
_SLOTS_PER_ID = 4
_FIBONACCI = 0x9E3779B97F4A7C15


class IdIndex:
    """A growing set of uint64 ids. Ordinals count from 0 in the order in which ids were first added.

    It supports one writer and any number of concurrent readers. A reader finds every id that was added before its call
    began, and never gets a wrong ordinal.
    """

    def __init__(self, ids: NDArray[np.uint64] | None = None, seed: HashSeed = SEED) -> None:
        """`ids` are the ids of ordinals 0, 1, ...; they must be distinct. `seed` selects the hash functions."""
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
        # Read the table before the ids: then every slot of the table has its id.
        table = self._table
        stored = self._ids
        ordinals, pending = _probe(table, stored, ids, self._seed, 0)
        step = 1
        while len(pending):
            probed, collided = _probe(table, stored, ids.take(pending), self._seed, step)
            ordinals[pending] = probed
            pending = pending.take(collided)
            step += 1
        return ordinals

    def add(self, ids: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Return int64[n]: the ordinal of each id, giving new ids the next ordinals in order of occurrence."""
        ordinals = self.find(ids)
        unknown = (ordinals < 0).nonzero()[0]
        if len(unknown):
            new, order = _unique_in_order(ids.take(unknown))
            ordinals[unknown] = order + self._count
            self._append(new)
        return ordinals

    def truncate(self, count: int) -> None:
        """Remove the ids from ordinal `count` on. No other thread may call `find` meanwhile."""
        # Other ids may have been placed behind the removed ones, so build the table again.
        self._resize(self._ids[1 : count + 1])
        self._count = count

    def _append(self, new: NDArray[np.uint64]) -> None:
        start, end = self._count, self._count + len(new)
        if end < len(self._ids):
            # Store the ids before the slots that refer to them.
            self._ids[start + 1 : end + 1] = new
            _insert(self._table, new, start, self._seed)
        else:
            self._resize(np.concatenate([self.ids, new]))
        self._count = end

    def _resize(self, ids: NDArray[np.uint64]) -> None:
        capacity = max(_SMALLEST, 1 << (len(ids) - 1).bit_length())
        # Both arrays are new, so a reader's table never refers to ids that its array of ids lacks. Index 0 of the ids
        # is unused, because a slot with 0 is free.
        grown = np.zeros(1 + capacity, np.uint64)
        grown[1 : len(ids) + 1] = ids
        table = np.zeros(_SLOTS_PER_ID * capacity, np.uint32)
        _insert(table, ids, 0, self._seed)
        self._ids = grown
        self._table = table


def _slots(ids: NDArray[np.uint64], size: int, seed: HashSeed, step: int) -> NDArray[np.int64]:
    """Return int64[n]: the slot to probe for each id at a step, in a table of `size` slots."""
    level = min(step, LEVELS)
    bits = size.bit_length() - 2 - level
    slots: NDArray[np.uint64] = hash_ids(ids, seed, level - 1) if level else ids * np.uint64(_FIBONACCI)
    slots >>= 64 - bits
    slots |= 1 << bits
    if step > level:
        slots += step - level
        slots &= size - 1
    return slots.view(np.int64)


def _probe(
    table: NDArray[np.uint32], stored: NDArray[np.uint64], ids: NDArray[np.uint64], seed: HashSeed, step: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return int64[n], the ordinals, -1 at free slots; and int64[m], the rows whose slot holds another id."""
    # Every index is in range; mode "clip" saves the bounds check.
    places = table.take(_slots(ids, len(table), seed, step), mode="clip")
    collides = stored.take(places, mode="clip") != ids
    collides &= places != 0
    return np.subtract(places, 1, dtype=np.int64), collides.nonzero()[0]


def _insert(table: NDArray[np.uint32], ids: NDArray[np.uint64], first: int, seed: HashSeed) -> None:
    """Insert distinct ids with the ordinals `first`, `first` + 1, ..., each into its first free slot."""
    places = np.arange(first + 1, first + 1 + len(ids), dtype=np.uint32)
    step = 0
    while len(places):
        slots = _slots(ids, len(table), seed, step)
        free = (table.take(slots, mode="clip") == 0).nonzero()[0]
        # If several ids compete for a free slot, the last write wins; the others probe again.
        table[slots.take(free)] = places.take(free)
        unplaced = (table.take(slots, mode="clip") != places).nonzero()[0]
        places, ids = places.take(unplaced), ids.take(unplaced)
        step += 1


def _unique_in_order(ids: NDArray[np.uint64]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Return the distinct ids in order of first occurrence, and int64[n]: the index of each id among them."""
    ascending = np.sort(ids)
    if (ascending[1:] != ascending[:-1]).all():
        return ids, np.arange(len(ids))
    _, first, inverse = np.unique(ids, return_index=True, return_inverse=True)
    order = first.argsort()
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return ids[first[order]], rank[inverse]
