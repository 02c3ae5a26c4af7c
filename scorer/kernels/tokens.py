"""Tokens from events by the kernels: what `scorer.features` defines."""

import ctypes
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from scorer.kernels.library import loaded, memory_short


class _Events(ctypes.Structure):
    """`lifeline_events` of src/kernels.h."""

    _fields_ = (*((name, ctypes.c_void_p) for name in ("ms", "items", "types")), ("count", ctypes.c_int64))


class _Merged(ctypes.Structure):
    """`lifeline_merged`."""

    _fields_ = (*((name, ctypes.c_void_p) for name in ("newest", "types")), ("count", ctypes.c_int64))


class EventColumns(NamedTuple):
    """n events of one kind, oldest first."""

    timestamp_ms: NDArray[np.int64]
    """int64[n]."""
    item_id: NDArray[np.uint64]
    """uint64[n]."""
    action_type: NDArray[np.uint8]
    """uint8[n]: ids from 1."""

    def contiguous(self) -> Self:
        """Return the columns as the kernels read them."""
        return type(self)(*map(np.ascontiguousarray, self))


def merge(events: EventColumns, gap_ms: int) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    """Return the newest event of each token, int64[k] ascending, and the bits of its action types, uint64[k].

    Raises KernelsError where the kernels were not built, and MemoryError.
    """
    columns = events.contiguous()
    newest, types = np.empty(len(columns[0]), np.int64), np.empty(len(columns[0]), np.uint64)
    merged = _Merged(newest.ctypes.data, types.ctypes.data, 0)
    if loaded().lifeline_merge(ctypes.byref(_events(columns)), gap_ms, ctypes.byref(merged)):
        raise memory_short()
    return newest[: merged.count], types[: merged.count]


def engaged(shown: EventColumns, acted: EventColumns, gap_ms: int) -> NDArray[np.bool_]:
    """Return bool[n] of n events `shown`: which stand in a visit with an event of `acted` on the same item.

    Raises KernelsError where the kernels were not built, and MemoryError.
    """
    sides = shown.contiguous(), acted.contiguous()
    found = np.empty(len(shown.timestamp_ms), np.bool_)
    of_shown, of_acted = map(_events, sides)
    if loaded().lifeline_engaged(ctypes.byref(of_shown), ctypes.byref(of_acted), gap_ms, found.ctypes.data):
        raise memory_short()
    return found


def last_touch(tokens: NDArray[np.uint64], items: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return the newest of uint64[n] tokens on each of uint64[c] items, int64[c]; -1 where there is none.

    Raises KernelsError where the kernels were not built, and MemoryError.
    """
    sides = [np.ascontiguousarray(side) for side in (tokens, items)]
    newest = np.empty(len(items), np.int64)
    arguments = [argument for side in sides for argument in (side.ctypes.data, len(side))]
    if loaded().lifeline_last_touch(*arguments, newest.ctypes.data):
        raise memory_short()
    return newest


def _events(columns: EventColumns) -> _Events:
    return _Events(*(column.ctypes.data for column in columns), len(columns.timestamp_ms))
