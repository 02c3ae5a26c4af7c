"""The collector: it reads the node's parts at each scrape, and costs nothing between scrapes."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from typing import NamedTuple

from prometheus_client.metrics_core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from lifeline import __version__
from lifeline.node.health import Health, all_ok
from lifeline.node.metrics import catalogue as c
from lifeline.node.metrics.catalogue import MetricSpec
from lifeline.node.metrics.histogram import ColumnHistogram
from lifeline.node.metrics.totals import StoreTotals, StreamTotals
from lifeline.producer.best_effort_producer import BestEffortProducer
from lifeline.rpc.waits import WaitStatistics
from lifeline.scorer.history_cache import HistoryCacheStatistics
from lifeline.store.errors import StoreError
from lifeline.store.item_budget import ItemBudget
from lifeline.store.partition import PartitionStore
from lifeline.store.statistics import PartitionStatistics
from lifeline.stream.partition import PartitionState, PartitionStatus
from lifeline.stream.standby_status import StandbyState, StandbyStatus

_LOW_BITS = (1 << 52) - 1

Samples = Iterable[tuple[tuple[str, ...], float]]


class ItemCounts(NamedTuple):
    """The sources of the item counts."""

    ids: ItemBudget
    embeddings: Sized


class Sources(NamedTuple):
    """The sources of the figures; every function may be called from any thread."""

    partitions: Callable[[], Sequence[PartitionStatus]]
    standbys: Callable[[], Sequence[StandbyStatus]]
    added_partitions: Callable[[], int]
    standby_mismatches: Callable[[], int]
    store_of: Callable[[int], PartitionStore | None]
    """The open store of a partition, owned or followed."""
    item_records: Callable[[], int]
    item_problems: Callable[[], Mapping[str, int]]
    items_open_transaction_s: Callable[[], float]
    side_topics: Sequence[BestEffortProducer]
    """The producers of the side topics that the node writes."""
    snapshot_ages: Callable[[], Mapping[int, float]]
    """Seconds by partition."""
    history_cache: Callable[[], HistoryCacheStatistics]
    waits: Callable[[], WaitStatistics]
    item_counts: ItemCounts
    health: Health


class NodeCollector(Collector):
    """Collects all metrics of the catalogue except those of gRPC and Score calls."""

    def __init__(self, sources: Sources, stream: StreamTotals, stores: StoreTotals) -> None:
        self._sources, self._stream, self._stores = sources, stream, stores

    def describe(self) -> Iterator[Metric]:
        """Return nothing, so that the registration does not read the parts."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Read every part once, and yield the families."""
        health = self._sources.health
        yield _family(c.INFO, [((__version__,), 1)])
        yield _family(c.LIVE, [((), all_ok(health.live()))])
        yield _family(c.READY, [((), all_ok(health.ready()))])
        yield from self._of_stream()
        owned = self._sources.partitions()
        yield from _of_partitions(owned)
        yield _family(c.ADDED_PARTITIONS, [((), self._sources.added_partitions())])
        standbys = self._sources.standbys()
        yield from self._of_standbys(standbys)
        numbers = [*(status.partition for status in owned), *(status.partition for status in standbys)]
        stores = [(number, store) for number in numbers if (store := self._sources.store_of(number)) is not None]
        yield from self._of_stores(stores, frozenset(status.partition for status in owned))
        yield _family(c.ITEM_RECORDS, [((), self._sources.item_records())])
        yield _family(c.ITEM_PROBLEMS, (((name,), count) for name, count in self._sources.item_problems().items()))
        ids, embeddings = self._sources.item_counts
        yield _family(c.ITEM_IDS, [((), ids.used)])
        yield _family(c.ITEM_EMBEDDINGS, [((), len(embeddings))])
        yield _family(c.MAX_ITEMS, [((), ids.limit or 0)])
        yield _family(c.ITEMS_CAUGHT_UP, [((), health.has_synced_items)])
        yield _family(c.ITEMS_OPEN_TRANSACTION, [((), self._sources.items_open_transaction_s())])
        written = [((producer.topic, "published"), producer.published) for producer in self._sources.side_topics]
        written += [((producer.topic, "dropped"), producer.dropped) for producer in self._sources.side_topics]
        yield _family(c.SIDE_RECORDS, written)
        cache = self._sources.history_cache()
        yield _family(c.TOKEN_TABLE_READS, [(("found",), cache.hits), (("made",), cache.misses)])
        yield _family(c.TOKEN_TABLES, [((), cache.entries)])
        yield _family(c.TOKEN_TABLE_BYTES, [((), cache.bytes)])
        waits = self._sources.waits()
        yield _family(c.WAITS, [((), waits.waiting)])
        yield _family(c.WAITS_REFUSED, [((), waits.refused)])
        ages = self._sources.snapshot_ages()
        yield _family(c.SNAPSHOT_AGE, (((str(number),), age) for number, age in ages.items()))

    def _of_stream(self) -> Iterator[Metric]:
        totals = self._stream
        by_partition = {
            c.RECORDS: totals.records,
            c.RECORD_BYTES: totals.record_bytes,
            c.ACTIONS: totals.actions,
            c.ERASURES: totals.erasures,
            c.BATCHES: totals.batches,
        }
        for metric, counts in by_partition.items():
            yield _family(metric, (((str(number),), count) for number, count in sorted(counts.items())))
        yield _family(c.DEAD_LETTERS, (((reason,), count) for reason, count in sorted(totals.dead_letters.items())))
        yield _family(c.REBALANCES, [((), totals.rebalances)])
        yield _histogram(c.BATCH_SECONDS, totals.batch_seconds)
        yield _histogram(c.ACTION_TO_READABLE, totals.action_to_readable)
        yield _histogram(c.REBALANCE_SECONDS, totals.rebalance_seconds)

    def _of_standbys(self, standbys: Sequence[StandbyStatus]) -> Iterator[Metric]:
        yield _states(c.STANDBY_STATE, [(status.partition, status.state.value) for status in standbys], StandbyState)
        yield _family(c.STANDBY_LAG_RECORDS, (((str(status.partition),), status.lag) for status in standbys))
        yield _family(c.STANDBY_MISMATCHES, [((), self._sources.standby_mismatches())])

    def _of_stores(self, stores: Sequence[tuple[int, PartitionStore]], owned: frozenset[int]) -> Iterator[Metric]:
        for _, store in stores:
            self._stores.collect(store)
        totals = self._stores
        yield _family(c.READS, [(("found",), totals.found), (("empty",), totals.empty)])
        applied = totals.applied
        counts = {
            c.EVENTS_ADDED: applied.inserted,
            c.EVENTS_REPEATED: applied.repeated,
            c.EVENTS_TRIMMED: applied.trimmed,
            c.EVENTS_EXPIRED: applied.expired,
            c.EVENTS_ERASED: totals.erased,
            c.CHUNKS_SEALED: applied.sealed_chunks,
            c.LATE_REWRITES: applied.late_rewrites,
        }
        for metric, count in counts.items():
            yield _family(metric, [((), count)])
        states = {number: store.state for number, store in stores if number in owned}
        yield _family(c.EVENTS, (((str(number),), state.events) for number, state in states.items()))
        yield _family(
            c.FINGERPRINT, (((str(number),), state.fingerprint & _LOW_BITS) for number, state in states.items())
        )
        by_store = list(_statistics(stores))
        yield _family(c.STORE_BYTES, (((number,), statistics.directory_bytes) for number, statistics in by_store))
        yield _family(c.WAL_BYTES, (((number,), statistics.wal_bytes) for number, statistics in by_store))
        yield _family(
            c.PENDING_COMPACTION,
            (
                ((n,), sum(family.pending_compaction_bytes for family in statistics.families.values()))
                for n, statistics in by_store
            ),
        )
        yield _family(
            c.BACKGROUND_ERRORS, (((number,), statistics.background_errors) for number, statistics in by_store)
        )
        # All partitions share one cache, so the figure of any store is enough.
        yield _family(c.BLOCK_CACHE_BYTES, [((), statistics.block_cache_bytes) for _, statistics in by_store[:1]])


def _of_partitions(owned: Sequence[PartitionStatus]) -> Iterator[Metric]:
    now_ms = time.time() * 1000
    yield _states(c.STATE, [(status.partition, status.state.value) for status in owned], PartitionState)
    done = {status.partition: max(0, status.applied_offset + 1 - status.resumed_offset) for status in owned}
    total = {status.partition: max(0, status.end_offset - status.resumed_offset) for status in owned}
    rate = {
        status.partition: done[status.partition] / status.catching_up_s if status.catching_up_s > 0 else 0.0
        for status in owned
    }
    values: dict[MetricSpec, Callable[[PartitionStatus], float]] = {
        c.LAG_RECORDS: lambda status: status.lag,
        c.LAG_SECONDS: lambda status: _age_s(status.waiting_since_ms, now_ms),
        c.OPEN_TRANSACTION: lambda status: _age_s(status.held_since_ms, now_ms),
        c.APPLIED_OFFSET: lambda status: status.applied_offset,
        c.DURABLE_OFFSET: lambda status: status.durable_offset,
        c.CATCH_UP_DONE: lambda status: done[status.partition],
        c.CATCH_UP_TOTAL: lambda status: total[status.partition],
        c.CATCH_UP_RATE: lambda status: rate[status.partition],
        c.CATCH_UP_REMAINING: lambda status: (
            status.lag / rate[status.partition]
            if status.state is PartitionState.CATCHING_UP and rate[status.partition] > 0
            else 0.0
        ),
    }
    for metric, value in values.items():
        yield _family(metric, (((str(status.partition),), value(status)) for status in owned))


def _age_s(since_ms: int, now_ms: float) -> float:
    return max(0.0, now_ms - since_ms) / 1000 if since_ms else 0.0


def _statistics(stores: Sequence[tuple[int, PartitionStore]]) -> Iterator[tuple[str, PartitionStatistics]]:
    for number, store in stores:
        try:
            yield str(number), store.statistics()
        except (StoreError, OSError):
            # The store was closed meanwhile, because the partition has moved.
            continue


def _family(metric: MetricSpec, samples: Samples) -> Metric:
    family = metric.family()
    for labels, value in samples:
        family.add_metric(list(labels), value)  # type: ignore[attr-defined]
    return family


def _histogram(metric: MetricSpec, histogram: ColumnHistogram) -> Metric:
    family = HistogramMetricFamily(metric.name, metric.help)
    family.add_metric([], *histogram.buckets())
    return family


def _states(
    metric: MetricSpec, held: Sequence[tuple[int, str]], states: type[PartitionState] | type[StandbyState]
) -> Metric:
    return _family(
        metric, (((str(number), state.value), state.value == now) for number, now in held for state in states)
    )
