"""Tokens from events by the kernels: what `scorer.features` defines."""

import ctypes
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from lifeline.scorer.kernels import abi
from lifeline.scorer.kernels.arrays import checked
from lifeline.scorer.kernels.library import loaded, out_of_memory
from lifeline.store.id_hash import SEED, HashSeed


class EventColumns(NamedTuple):
    """n events of one kind, oldest first."""

    timestamp_ms: NDArray[np.int64]
    """int64[n]."""
    item_id: NDArray[np.uint64]
    """uint64[n]."""
    action_type: NDArray[np.uint8]
    """uint8[n]: ids from 1."""

    def checked(self) -> Self:
        """Return the columns as the kernels read them; raises KernelInputError."""
        count = len(self.timestamp_ms)
        return type(self)(
            checked("timestamp_ms", self.timestamp_ms, np.int64, count),
            checked("item_id", self.item_id, np.uint64, count),
            checked("action_type", self.action_type, np.uint8, count),
        )


def merge(events: EventColumns, gap_ms: int, seed: HashSeed = SEED) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    """Return the newest event of each token, int64[k] ascending, and the bits of its action types, uint64[k].

    Raises KernelsError where the kernels were not built, KernelInputError and MemoryError.
    """
    newest, types, _ = _merge(events, gap_ms, seed)
    return newest, types


def probes(items: NDArray[np.uint64], seed: HashSeed = SEED) -> int:
    """Return how often `merge`, of one visit with uint64[n] items, finds another item in the place of one.

    Raises as `merge` does.
    """
    count = len(items)
    return _merge(EventColumns(np.zeros(count, np.int64), items, np.ones(count, np.uint8)), 0, seed)[2]


def _merge(events: EventColumns, gap_ms: int, seed: HashSeed) -> tuple[NDArray[np.int64], NDArray[np.uint64], int]:
    columns = events.checked()
    newest, types = np.empty(len(columns[0]), np.int64), np.empty(len(columns[0]), np.uint64)
    merged = abi.Merged(newest.ctypes.data, types.ctypes.data)
    if loaded().lifeline_merge(ctypes.byref(_events(columns)), gap_ms, _seed(seed), ctypes.byref(merged)):
        raise out_of_memory()
    return newest[: merged.count], types[: merged.count], merged.probes


def engaged(shown: EventColumns, acted: EventColumns, gap_ms: int, seed: HashSeed = SEED) -> NDArray[np.bool_]:
    """Return bool[n] of n events `shown`: which stand in a visit with an event of `acted` on the same item.

    Raises KernelsError where the kernels were not built, KernelInputError and MemoryError.
    """
    sides = shown.checked(), acted.checked()
    found = np.empty(len(shown.timestamp_ms), np.bool_)
    of_shown, of_acted = map(_events, sides)
    if loaded().lifeline_engaged(
        ctypes.byref(of_shown), ctypes.byref(of_acted), gap_ms, _seed(seed), found.ctypes.data
    ):
        raise out_of_memory()
    return found


def last_touch(tokens: NDArray[np.uint64], items: NDArray[np.uint64], seed: HashSeed = SEED) -> NDArray[np.int64]:
    """Return the newest of uint64[n] tokens on each of uint64[c] items, int64[c]; -1 where there is none.

    Raises KernelsError where the kernels were not built, KernelInputError and MemoryError.
    """
    sides = [checked(name, side, np.uint64, None) for name, side in (("tokens", tokens), ("items", items))]
    newest = np.empty(len(items), np.int64)
    arguments = [argument for side in sides for argument in (side.ctypes.data, len(side))]
    if loaded().lifeline_last_touch(*arguments, _seed(seed), newest.ctypes.data):
        raise out_of_memory()
    return newest


def _seed(seed: HashSeed) -> object:
    return ctypes.byref(abi.Seed(seed.mask, seed.first, seed.second))


def _events(columns: EventColumns) -> abi.Events:
    return abi.Events(*(column.ctypes.data for column in columns), len(columns.timestamp_ms))
