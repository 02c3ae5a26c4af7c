"""The head cache: the heads that all partitions of the process used last, within one budget of bytes."""

import threading
from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lifeline.store.chunk import EventColumns

ENTRY_BYTES = 300
"""What a head takes in the cache beside the bytes of its key and of its record: two objects, an entry, and the gaps
that heads of all sizes leave in memory as they come and go."""
_REMEMBERED_BYTES = 600


class HeadCacheStatistics(NamedTuple):
    """What the cache holds, and how it has done since the process started."""

    heads: int
    bytes: int
    hits: int
    misses: int


@dataclass(slots=True)
class Remembered:
    """What the writer has read of a sequence and may need again; it is nowhere stored."""

    segment_times: NDArray[np.int64] | None = None
    """int64[m]: the timestamps in the sequence's segments, in no order."""
    oldest_events: EventColumns | None = None
    """The events of the oldest chunk, the skipped ones too."""

    def __bool__(self) -> bool:
        return self.segment_times is not None or self.oldest_events is not None

    @property
    def memory_bytes(self) -> int:
        """About how much memory it takes."""
        times = 0 if self.segment_times is None else self.segment_times.nbytes
        oldest = 0 if self.oldest_events is None else sum(column.nbytes for column in self.oldest_events)
        return _REMEMBERED_BYTES + times + oldest


class CachedHeads(NamedTuple):
    """Heads out of the cache."""

    records: dict[bytes, bytes]
    """The head record of each prefix that was there."""
    remembered: dict[bytes, Remembered]
    """What is remembered of some of them."""


class HeadCache:
    """One budget for the shares of all partitions. Whoever goes above it, the largest share gives heads up."""

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self._shares: list[HeadShare] = []
        self._lock = threading.Lock()

    def open_share(self) -> "HeadShare":
        """Return the share of a partition that is being opened."""
        with self._lock:
            share = HeadShare(self)
            self._shares.append(share)
            return share

    def close_share(self, share: "HeadShare") -> None:
        """Let go of a share and all it holds."""
        with self._lock:
            self._shares.remove(share)

    def make_room(self) -> None:
        """Bring all shares together under the budget."""
        with self._lock:
            while (above := sum(share.bytes for share in self._shares) - self.budget_bytes) > 0:
                max(self._shares, key=lambda share: share.bytes).give_up(above)

    def statistics(self) -> HeadCacheStatistics:
        """Return counts of this moment."""
        with self._lock:
            shares = self._shares
            return HeadCacheStatistics(
                sum(len(share) for share in shares),
                sum(share.bytes for share in shares),
                sum(share.hits for share in shares),
                sum(share.misses for share in shares),
            )


class HeadShare:
    """The heads of one partition, the least recently used first.

    A head is held as its record's bytes: that is what most batches need of it, and a third of what objects take.
    `take_many` and `put_many` are the partition's writer's; every other method may be called from any thread.
    """

    def __init__(self, cache: HeadCache) -> None:
        self.bytes = self.hits = self.misses = 0
        self._cache = cache
        self._records: OrderedDict[bytes, bytes] = OrderedDict()
        self._remembered: dict[bytes, Remembered] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._records)

    def take_many(self, prefixes: Collection[bytes]) -> CachedHeads:
        """Take out the heads that are here; what is not put back is forgotten."""
        records, remembered = self._records, self._remembered
        with self._lock:
            found = {prefix: record for prefix in prefixes if (record := records.pop(prefix, None)) is not None}
            known = {prefix: remembered.pop(prefix) for prefix in found if prefix in remembered} if remembered else {}
            self.bytes -= _bytes(found, known)
            self.hits += len(found)
            self.misses += len(prefixes) - len(found)
        return CachedHeads(found, known)

    def put_many(self, records: dict[bytes, bytes], remembered: dict[bytes, Remembered]) -> None:
        """Hold heads that are not here, as the last used; then let go of what is above the budget."""
        with self._lock:
            self._records.update(records)
            self._remembered.update(remembered)
            self.bytes += _bytes(records, remembered)
        self._cache.make_room()

    def give_up(self, wanted: int) -> int:
        """Let go of at least `wanted` bytes, or of all; returns how many it were."""
        given, remembered = 0, self._remembered
        with self._lock:
            while self._records and given < wanted:
                prefix, record = self._records.popitem(last=False)
                given += ENTRY_BYTES + len(prefix) + len(record)
                if prefix in remembered:
                    given += remembered.pop(prefix).memory_bytes
            self.bytes -= given
        return given

    def close(self) -> None:
        """Let go of everything."""
        self._cache.close_share(self)


def _bytes(records: dict[bytes, bytes], remembered: dict[bytes, Remembered]) -> int:
    """Return about how much memory heads take in the cache."""
    total = ENTRY_BYTES * len(records) + sum(map(len, records)) + sum(map(len, records.values()))
    return total + sum(known.memory_bytes for known in remembered.values()) if remembered else total
