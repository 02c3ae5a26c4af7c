"""The metrics of one node: its counters, its collector, and the registry that serves both."""

from collections.abc import Callable, Mapping, Sequence

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector

from lifeline.node.group import GroupPart
from lifeline.node.health import Health
from lifeline.node.metrics.collector import ItemCounts, NodeCollector, Sources
from lifeline.node.metrics.grpc_calls import CallMetrics
from lifeline.node.metrics.score_timings import ScoreTimings
from lifeline.node.metrics.totals import StoreTotals, StreamTotals
from lifeline.producer.best_effort_producer import BestEffortProducer
from lifeline.rpc.waits import WaitStatistics
from lifeline.scorer.history_cache import HistoryCacheStatistics
from lifeline.stream.items import ItemFollower


class NodeMetrics:
    """Created before the other parts, which count from the start; `serve` registers the collector that reads them."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.stream = StreamTotals()
        """Totals of the updater."""
        self.stores = StoreTotals()
        self.calls = CallMetrics(self.registry)
        """The stage of the gRPC server that counts calls."""
        self.scores = ScoreTimings(self.registry)
        """Timings of Score."""

    def serve(
        self,
        group: GroupPart,
        items: ItemFollower,
        health: Health,
        side_topics: Sequence[BestEffortProducer],
        snapshot_ages: Callable[[], Mapping[int, float]],
        history_cache: Callable[[], HistoryCacheStatistics],
        waits: Callable[[], WaitStatistics],
        item_counts: ItemCounts,
    ) -> None:
        """Register the collector, which reads these parts at each scrape."""
        sources = Sources(
            partitions=group.stream.status,
            standbys=group.stream.standbys,
            added_partitions=lambda: group.updater.added_partitions,
            standby_mismatches=lambda: group.standby.mismatches,
            store_of=group.store_of,
            item_records=lambda: items.records,
            item_problems=lambda: {problem.value: count for problem, count in dict(items.problems).items()},
            items_open_transaction_s=lambda: items.open_transaction_s,
            side_topics=side_topics,
            snapshot_ages=snapshot_ages,
            history_cache=history_cache,
            waits=waits,
            item_counts=item_counts,
            health=health,
        )
        self.registry.register(NodeCollector(sources, self.stream, self.stores))
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
