"""How long Score calls waited, and how long they then took."""

from prometheus_client import CollectorRegistry, Counter, Histogram

from lifeline.node.metrics.catalogue import SCORE_CANDIDATES, SCORE_QUEUE, SCORE_SECONDS


class ScoreTimings:
    """Takes what `scorer.service` tells, from any thread."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._queue, self._seconds = (
            Histogram(one.name, one.help, buckets=one.buckets, registry=registry)
            for one in (SCORE_QUEUE, SCORE_SECONDS)
        )
        self._candidates = Counter(SCORE_CANDIDATES.name, SCORE_CANDIDATES.help, registry=registry)

    def waited(self, seconds: float) -> None:
        """Count a call that got its turn, or gave up waiting for it."""
        self._queue.observe(seconds)

    def scored(self, seconds: float, candidates: int) -> None:
        """Count a call that was scored."""
        self._seconds.observe(seconds)
        self._candidates.inc(candidates)
