"""The order of events within a sequence, and the intersection of sets of events.

Events ascend by identity: timestamp, item id, code. `ids` is uint64[m] everywhere, the item id of each ordinal.
"""

import numpy as np
from numpy.typing import NDArray

from lifeline.core.actions import Identity
from lifeline.store.chunk import EventColumns
from lifeline.store.errors import CorruptRecordError
from lifeline.store.segment import EVENT, pack_events

_BROADCAST_CELLS = 1 << 16


def identity_of(events: EventColumns, row: int, ids: NDArray[np.uint64]) -> Identity:
    """Return the identity of one row."""
    return Identity(int(events.timestamp_ms[row]), int(ids[events.ordinal[row]]), int(events.code[row]))


def ascending(events: EventColumns, ids: NDArray[np.uint64]) -> "NDArray[np.int64] | slice":
    """Return the rows in ascending order; raises CorruptRecordError for an ordinal that `ids` lacks."""
    if events.n and int(events.ordinal.max()) >= len(ids):
        raise CorruptRecordError("an unsealed event has an item ordinal that the partition does not have")
    times = events.timestamp_ms
    if (times[1:] > times[:-1]).all():
        return slice(None)
    # Timsort is fast on nearly sorted times; only events with equal times need the other columns.
    order = np.argsort(times, kind="stable")
    times = times[order]
    if (times[1:] > times[:-1]).all():
        return order
    return np.lexsort((events.code, ids[events.ordinal], events.timestamp_ms))


def count_up_to(events: EventColumns, identity: tuple[int, int, int], ids: NDArray[np.uint64]) -> int:
    """Return how many of the ascending events are at or below `identity`."""
    return _count(events, identity, ids, equal=True)


def count_below(events: EventColumns, identity: tuple[int, int, int], ids: NDArray[np.uint64]) -> int:
    """Return how many of the ascending events are below `identity`."""
    return _count(events, identity, ids, equal=False)


def _count(events: EventColumns, identity: tuple[int, int, int], ids: NDArray[np.uint64], *, equal: bool) -> int:
    low = int(np.searchsorted(events.timestamp_ms, identity[0], "left"))
    high = int(np.searchsorted(events.timestamp_ms, identity[0], "right"))
    while low < high:
        middle = (low + high) // 2
        at_middle = identity_of(events, middle, ids)
        if at_middle < identity or (equal and at_middle == identity):
            low = middle + 1
        else:
            high = middle
    return low


def isin(values: NDArray[np.int64], pool: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return bool[n]: which values are in the unordered `pool`."""
    if len(values) * len(pool) <= _BROADCAST_CELLS:
        # Late events are few: comparing all pairs takes a tenth of the time of a sort.
        is_in_pool: NDArray[np.bool_] = (values[:, None] == pool[None, :]).any(axis=1)
        return is_in_pool
    return np.isin(values, pool)


def isin_events(events: EventColumns, pool: EventColumns) -> NDArray[np.bool_]:
    """Return bool[n]: which of `events` are in `pool`."""
    same_time = pool.take(isin(pool.timestamp_ms, events.timestamp_ms))
    if not same_time.n:
        return np.zeros(events.n, np.bool_)
    # Compare bytes: Python seeds their hash in each process. It does not seed the hash of integers, so producers could
    # choose colliding ones.
    pool_rows, rows = (np.frombuffer(pack_events(part), f"V{EVENT.itemsize}").tolist() for part in (same_time, events))
    return np.fromiter(map(set(pool_rows).__contains__, rows), np.bool_, events.n)
