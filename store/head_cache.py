"""The head cache: the heads that all partitions of the process used last, within one budget of bytes."""

import threading
from collections import OrderedDict
from collections.abc import Iterable
from typing import NamedTuple

from store.head import Head


class HeadCacheStatistics(NamedTuple):
    """What the cache holds, and how it has done since the process started."""

    heads: int
    bytes: int
    hits: int
    misses: int


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
    """The heads of one partition, the least recently used first. A head belongs to the partition's writer.

    Every method may be called from any thread; `get_many` and `put_many` are the writer's.
    """

    def __init__(self, cache: HeadCache) -> None:
        self.bytes = self.hits = self.misses = 0
        self._cache = cache
        self._heads: OrderedDict[bytes, Head] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._heads)

    def get_many(self, prefixes: Iterable[bytes]) -> tuple[dict[bytes, Head], list[bytes]]:
        """Return the heads that are here, now the last used, and the prefixes of those that are not."""
        found: dict[bytes, Head] = {}
        missing = []
        heads = self._heads
        with self._lock:
            for prefix in prefixes:
                head = heads.get(prefix)
                if head is None:
                    missing.append(prefix)
                else:
                    heads.move_to_end(prefix)
                    found[prefix] = head
            self.hits += len(found)
            self.misses += len(missing)
        return found, missing

    def put_many(self, touched: dict[bytes, Head]) -> None:
        """Hold heads, or hold them for what they take by now; then let go of what is above the budget."""
        heads, grown = self._heads, 0
        with self._lock:
            for prefix, head in touched.items():
                heads[prefix] = head
                size = head.memory_bytes
                grown += size - head.accounted
                head.accounted = size
            self.bytes += grown
        self._cache.make_room()

    def give_up(self, wanted: int) -> int:
        """Let go of at least `wanted` bytes, or of all; returns how many it were."""
        given = 0
        with self._lock:
            while self._heads and given < wanted:
                head = self._heads.popitem(last=False)[1]
                given += head.accounted
                head.accounted = 0
            self.bytes -= given
        return given

    def forget(self, prefix: bytes) -> None:
        """Let go of one head."""
        with self._lock:
            head = self._heads.pop(prefix, None)
            if head is not None:
                self.bytes -= head.accounted
                head.accounted = 0

    def close(self) -> None:
        """Let go of everything."""
        self._cache.close_share(self)
