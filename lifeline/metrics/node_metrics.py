"""The metrics of one node, wired: what counts, what is read at a scrape, and the registry that serves both."""

from collections.abc import Callable, Mapping, Sequence

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector

from lifeline.group import GroupPart
from lifeline.health import Health
from lifeline.metrics.collector import ItemCounts, NodeCollector, Sources
from lifeline.metrics.grpc_calls import CallMetrics
from lifeline.metrics.score_timings import ScoreTimings
from lifeline.metrics.totals import StoreTotals, StreamTotals
from scorer.token_tables import TokenTableStatistics
from store.waits import WaitStatistics
from stream.items import ItemFollower
from stream.side_topic import SideTopic


class NodeMetrics:
    """Made first, for the parts tell it things from the start; `serve` puts it behind /metrics."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.stream = StreamTotals()
        """What the updater tells."""
        self.stores = StoreTotals()
        self.calls = CallMetrics(self.registry)
        """The server's interceptor."""
        self.scores = ScoreTimings(self.registry)
        """What Score tells."""

    def serve(
        self,
        group: GroupPart,
        items: ItemFollower,
        health: Health,
        side_topics: Sequence[SideTopic],
        snapshot_ages: Callable[[], Mapping[int, float]],
        token_tables: Callable[[], TokenTableStatistics],
        waits: Callable[[], WaitStatistics],
        item_counts: ItemCounts,
    ) -> None:
        """Register everything that is read at a scrape."""
        sources = Sources(
            partitions=group.stream.status,
            standbys=group.stream.standbys,
            standby_mismatches=lambda: group.standby.mismatches,
            store_of=group.store_of,
            item_records=lambda: items.records,
            item_problems=lambda: {problem.value: count for problem, count in dict(items.problems).items()},
            side_topics=side_topics,
            snapshot_ages=snapshot_ages,
            token_tables=token_tables,
            waits=waits,
            item_counts=item_counts,
            health=health,
        )
        self.registry.register(NodeCollector(sources, self.stream, self.stores))
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
