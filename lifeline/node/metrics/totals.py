"""Totals of the process. They include partitions that have left the node."""

import threading
import time
from collections import Counter
from operator import add, sub

import numpy as np

from lifeline.node.metrics.catalogue import ACTION_TO_READABLE, BATCH_SECONDS, REBALANCE_SECONDS
from lifeline.node.metrics.histogram import ColumnHistogram
from lifeline.store.partition import ApplyResult, PartitionStore
from lifeline.stream.observer import AppliedBatch, NoObserver


class StreamTotals(NoObserver):
    """Totals of the updater's events. Updated in the event loop; read from any thread."""

    def __init__(self) -> None:
        self.records: Counter[int] = Counter()
        """By partition, like the next four."""
        self.record_bytes: Counter[int] = Counter()
        self.actions: Counter[int] = Counter()
        self.erasures: Counter[int] = Counter()
        self.batches: Counter[int] = Counter()
        self.dead_letters: Counter[str] = Counter()
        """By reason."""
        self.rebalances = 0
        self.batch_seconds = ColumnHistogram(BATCH_SECONDS.buckets)
        self.action_to_readable = ColumnHistogram(ACTION_TO_READABLE.buckets)
        self.rebalance_seconds = ColumnHistogram(REBALANCE_SECONDS.buckets)
        self._revoked_at: float | None = None

    def on_batch(self, batch: AppliedBatch) -> None:
        """Add a batch."""
        number = batch.partition
        self.records[number] += len(batch.records)
        self.record_bytes[number] += batch.bytes
        self.actions[number] += batch.decoded.actions
        self.erasures[number] += batch.erasures
        self.batches[number] += 1
        for letter in batch.decoded.dead_letters:
            self.dead_letters[letter.reason.value] += 1
        self.batch_seconds.observe([batch.seconds])
        if batch.was_serving:
            times = np.fromiter((record.timestamp for record in batch.records), np.int64, len(batch.records))
            self.action_to_readable.observe(np.maximum(time.time() - times / 1000, 0.0))

    def on_revoked(self, partitions: frozenset[int]) -> None:
        """Record the start of a rebalance."""
        del partitions
        self._revoked_at = time.monotonic()

    def on_assigned(self, partitions: frozenset[int]) -> None:
        """Count a rebalance that has ended."""
        del partitions
        self.rebalances += 1
        if self._revoked_at is not None:
            self.rebalance_seconds.observe([time.monotonic() - self._revoked_at])
            self._revoked_at = None


class StoreTotals:
    """Sums of the counts of all stores that were ever open. Every method may be called from any thread."""

    def __init__(self) -> None:
        self.applied = ApplyResult()
        self.erased = self.found = self.empty = 0
        self._seen: dict[PartitionStore, tuple[ApplyResult, int, int, int]] = {}
        self._lock = threading.Lock()

    def collect(self, store: PartitionStore) -> None:
        """Add the counts of a store since its last collection."""
        now = (store.totals, store.erased_events, store.reads.found, store.reads.empty)
        with self._lock:
            applied, erased, found, empty = self._seen.get(store, (ApplyResult(), 0, 0, 0))
            self.applied = ApplyResult(*map(add, self.applied, map(sub, now[0], applied)))
            self.erased += now[1] - erased
            self.found += now[2] - found
            self.empty += now[3] - empty
            self._seen[store] = now

    def retire(self, store: PartitionStore) -> None:
        """Collect a store for the last time, before it closes."""
        self.collect(store)
        with self._lock:
            self._seen.pop(store, None)
