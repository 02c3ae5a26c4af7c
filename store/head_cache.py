"""The head cache: the most recently used heads of all partitions of a process, within one memory budget."""

import threading
from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lifeline.store.chunk import EventColumns

ENTRY_BYTES = 300
"""Overhead of a cached head, besides the bytes of its key and record: two objects, an entry, and fragmentation."""
_DECODED_PARTS_BYTES = 600


class HeadCacheStatistics(NamedTuple):
    """The size of the cache now, and its hits and misses since the process started."""

    heads: int
    bytes: int
    hits: int
    misses: int


@dataclass(slots=True)
class DecodedParts:
    """Decoded parts of a sequence that the writer may need again. They are kept in memory only."""

    segment_times: NDArray[np.int64] | None = None
    """int64[m]: the timestamps of the events in segments, unordered."""
    oldest_events: EventColumns | None = None
    """The events of the oldest chunk, including the skipped ones."""

    def __bool__(self) -> bool:
        return self.segment_times is not None or self.oldest_events is not None

    @property
    def memory_bytes(self) -> int:
        """Approximate memory use."""
        times = 0 if self.segment_times is None else self.segment_times.nbytes
        oldest = 0 if self.oldest_events is None else sum(column.nbytes for column in self.oldest_events)
        return _DECODED_PARTS_BYTES + times + oldest


class CachedHeads(NamedTuple):
    """Heads that were taken out of the cache."""

    records: dict[bytes, bytes]
    """The head records, by prefix."""
    decoded: dict[bytes, DecodedParts]
    """The decoded parts of some of them, by prefix."""


class HeadCache:
    """One memory budget for the shares of all partitions. Above it, heads are evicted from the largest share."""

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self._shares: list[HeadShare] = []
        self._lock = threading.Lock()

    def open_share(self) -> "HeadShare":
        """Create the share of a partition."""
        with self._lock:
            share = HeadShare(self)
            self._shares.append(share)
            return share

    def close_share(self, share: "HeadShare") -> None:
        """Remove a share with all its heads."""
        with self._lock:
            self._shares.remove(share)

    def make_room(self) -> None:
        """Evict heads until all shares together fit the budget."""
        with self._lock:
            while (excess := sum(share.bytes for share in self._shares) - self.budget_bytes) > 0:
                max(self._shares, key=lambda share: share.bytes).evict(excess)

    def statistics(self) -> HeadCacheStatistics:
        """Return the current statistics."""
        with self._lock:
            shares = self._shares
            return HeadCacheStatistics(
                sum(len(share) for share in shares),
                sum(share.bytes for share in shares),
                sum(share.hits for share in shares),
                sum(share.misses for share in shares),
            )


class HeadShare:
    """The cached heads of one partition, least recently used first.

    A head is cached as the bytes of its record: most batches need only those, and objects would take three times the
    memory. Only the partition's writer calls `take_many` and `put_many`; the other methods may be called from any
    thread.
    """

    def __init__(self, cache: HeadCache) -> None:
        self.bytes = self.hits = self.misses = 0
        self._cache = cache
        self._records: OrderedDict[bytes, bytes] = OrderedDict()
        self._decoded: dict[bytes, DecodedParts] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._records)

    def take_many(self, prefixes: Collection[bytes]) -> CachedHeads:
        """Remove the cached heads of `prefixes` and return them; `put_many` puts them back."""
        records, decoded = self._records, self._decoded
        with self._lock:
            hits = {prefix: record for prefix in prefixes if (record := records.pop(prefix, None)) is not None}
            parts = {prefix: decoded.pop(prefix) for prefix in hits if prefix in decoded} if decoded else {}
            self.bytes -= _bytes(hits, parts)
            self.hits += len(hits)
            self.misses += len(prefixes) - len(hits)
        return CachedHeads(hits, parts)

    def put_many(self, records: dict[bytes, bytes], decoded: dict[bytes, DecodedParts]) -> None:
        """Add heads that are not in the cache, as the most recently used; then evict what exceeds the budget."""
        with self._lock:
            self._records.update(records)
            self._decoded.update(decoded)
            self.bytes += _bytes(records, decoded)
        self._cache.make_room()

    def evict(self, size: int) -> int:
        """Evict heads of at least `size` bytes, or all heads; returns the bytes that were freed."""
        freed, decoded = 0, self._decoded
        with self._lock:
            while self._records and freed < size:
                prefix, record = self._records.popitem(last=False)
                freed += ENTRY_BYTES + len(prefix) + len(record)
                if prefix in decoded:
                    freed += decoded.pop(prefix).memory_bytes
            self.bytes -= freed
        return freed

    def close(self) -> None:
        """Remove the share from the cache."""
        self._cache.close_share(self)


def _bytes(records: dict[bytes, bytes], decoded: dict[bytes, DecodedParts]) -> int:
    """Return the approximate memory use of heads in the cache."""
    total = ENTRY_BYTES * len(records) + sum(map(len, records)) + sum(map(len, records.values()))
    return total + sum(parts.memory_bytes for parts in decoded.values()) if decoded else total
