"""Item ids to dense ordinals, in order of first sight: an open-addressing table in NumPy.

A look-up of a whole batch is a handful of array operations, and a million ids take 24 MB where a dict takes
134 MB.
"""

import numpy as np
from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_EMPTY = -1


class IdIndex:
    """A growing set of uint64 ids, each with the ordinal at which it was first added. One writer at a time."""

    def __init__(self, ids: NDArray[np.uint64] | None = None) -> None:
        """`ids` are the ids of ordinals 0, 1, ...; they must be distinct."""
        ids = np.empty(0, np.uint64) if ids is None else ids
        self._count = len(ids)
        self._resize(1 << max(10, (len(ids) - 1).bit_length()), ids)

    def __len__(self) -> int:
        return self._count

    @property
    def ids(self) -> NDArray[np.uint64]:
        """uint64[len(self)]: the id of each ordinal."""
        return self._ids[: self._count]

    def find(self, ids: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Return int64[n]: the ordinal of each id, -1 where it has none."""
        # The table first: the ids that are read after it can only know more.
        table = self._table
        known = self._ids
        mask = len(table) - 1
        slots = _slots(ids, len(table))
        found = np.full(len(ids), _EMPTY, np.int64)
        pending = np.arange(len(ids))
        while len(pending):
            ordinals = table[slots]
            occupied = ordinals != _EMPTY
            hit = occupied & (known[ordinals] == ids[pending])
            found[pending[hit]] = ordinals[hit]
            onward = occupied & ~hit
            pending = pending[onward]
            slots = (slots[onward] + 1) & mask
        return found

    def add(self, ids: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Return int64[n]: the ordinal of each id, giving new ids the next ordinals in order of first sight."""
        ordinals = self.find(ids)
        unknown = ordinals == _EMPTY
        if unknown.any():
            new, first = np.unique(ids[unknown], return_index=True)
            self._append(new[np.argsort(first)])
            ordinals[unknown] = self.find(ids[unknown])
        return ordinals

    def _append(self, new: NDArray[np.uint64]) -> None:
        start, end = self._count, self._count + len(new)
        if end > len(self._ids):
            self._resize(1 << (end - 1).bit_length(), np.concatenate([self.ids, new]))
        else:
            self._ids[start:end] = new
            _insert(self._table, new, np.arange(start, end))
        self._count = end

    def _resize(self, capacity: int, ids: NDArray[np.uint64]) -> None:
        # Both arrays are new, so that a reader never holds a table that knows more than its ids.
        grown = np.zeros(capacity, np.uint64)
        grown[: len(ids)] = ids
        table = np.full(2 * capacity, _EMPTY, np.int64)
        _insert(table, ids, np.arange(len(ids)))
        self._ids = grown
        self._table = table


def _slots(ids: NDArray[np.uint64], size: int) -> NDArray[np.int64]:
    return ((ids * _GOLDEN) >> np.uint64(65 - size.bit_length())).astype(np.int64)


def _insert(table: NDArray[np.int64], ids: NDArray[np.uint64], ordinals: NDArray[np.int64]) -> None:
    mask = len(table) - 1
    slots = _slots(ids, len(table))
    while len(ordinals):
        free = table[slots] == _EMPTY
        table[slots[free]] = ordinals[free]
        # Of several ids that met at one free slot, the last one written has it.
        left = table[slots] != ordinals
        ordinals = ordinals[left]
        slots = (slots[left] + 1) & mask
