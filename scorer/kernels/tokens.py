"""Tokens from events by the CPU kernels, as `scorer.features` defines them."""

import ctypes
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from lifeline.scorer.kernels import abi
from lifeline.scorer.kernels.arrays import check_array
from lifeline.scorer.kernels.library import memory_error, require_library
from lifeline.store.id_hash import SEED, HashSeed


class EventColumns(NamedTuple):
    """n events of one kind, oldest first."""

    timestamp_ms: NDArray[np.int64]
    """int64[n]."""
    item_id: NDArray[np.uint64]
    """uint64[n]."""
    action_type: NDArray[np.uint8]
    """uint8[n]: ids from 1."""

    def check(self) -> Self:
        """Return the columns, contiguous and aligned; raises KernelInputError."""
        count = len(self.timestamp_ms)
        return type(self)(
            check_array("timestamp_ms", self.timestamp_ms, np.int64, count),
            check_array("item_id", self.item_id, np.uint64, count),
            check_array("action_type", self.action_type, np.uint8, count),
        )


def merge(events: EventColumns, gap_ms: int, seed: HashSeed = SEED) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    """Return the newest event of each token, int64[k] ascending, and the bits of its action types, uint64[k].

    Raises KernelsError if the kernels were not built, KernelInputError and MemoryError.
    """
    newest, types, _ = _merge(events, gap_ms, seed)
    return newest, types


def probes(items: NDArray[np.uint64], seed: HashSeed = SEED) -> int:
    """Return how many hash slots `merge` of one visit with uint64[n] items probes after an item's first.

    Raises as `merge` does.
    """
    count = len(items)
    return _merge(EventColumns(np.zeros(count, np.int64), items, np.ones(count, np.uint8)), 0, seed)[2]


def _merge(events: EventColumns, gap_ms: int, seed: HashSeed) -> tuple[NDArray[np.int64], NDArray[np.uint64], int]:
    columns = events.check()
    newest, types = np.empty(len(columns[0]), np.int64), np.empty(len(columns[0]), np.uint64)
    merged = abi.Merged(newest.ctypes.data, types.ctypes.data)
    if require_library().lifeline_merge(ctypes.byref(_events(columns)), gap_ms, _seed(seed), ctypes.byref(merged)):
        raise memory_error()
    return newest[: merged.count], types[: merged.count], merged.probes


def engaged(shown: EventColumns, acted: EventColumns, gap_ms: int, seed: HashSeed = SEED) -> NDArray[np.bool_]:
    """Return bool[n]: which of n events `shown` are in a visit with an event of `acted` on the same item.

    Raises KernelsError if the kernels were not built, KernelInputError and MemoryError.
    """
    engaged = np.empty(len(shown.timestamp_ms), np.bool_)
    shown_columns, acted_columns = shown.check(), acted.check()
    shown_events, acted_events = _events(shown_columns), _events(acted_columns)
    if require_library().lifeline_engaged(
        ctypes.byref(shown_events), ctypes.byref(acted_events), gap_ms, _seed(seed), engaged.ctypes.data
    ):
        raise memory_error()
    return engaged


def last_touch(tokens: NDArray[np.uint64], items: NDArray[np.uint64], seed: HashSeed = SEED) -> NDArray[np.int64]:
    """Return the row of the newest of uint64[n] tokens on each of uint64[c] items, int64[c]; -1 without one.

    Raises KernelsError if the kernels were not built, KernelInputError and MemoryError.
    """
    arrays = [check_array(name, array, np.uint64, None) for name, array in (("tokens", tokens), ("items", items))]
    newest = np.empty(len(items), np.int64)
    arguments = [argument for array in arrays for argument in (array.ctypes.data, len(array))]
    if require_library().lifeline_last_touch(*arguments, _seed(seed), newest.ctypes.data):
        raise memory_error()
    return newest


def _seed(seed: HashSeed) -> object:
    return ctypes.byref(abi.Seed(seed.mask, seed.first, seed.second))


def _events(columns: EventColumns) -> abi.Events:
    return abi.Events(*(column.ctypes.data for column in columns), len(columns.timestamp_ms))
