"""Durations of Score calls: the wait for a turn, and reading and scoring."""

from prometheus_client import CollectorRegistry, Counter, Histogram

from lifeline.node.metrics.catalogue import SCORE_CANDIDATES, SCORE_QUEUE, SCORE_SECONDS


class ScoreTimings:
    """Every method may be called from any thread."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._queue, self._seconds = (
            Histogram(spec.name, spec.help, buckets=spec.buckets, registry=registry)
            for spec in (SCORE_QUEUE, SCORE_SECONDS)
        )
        self._candidates = Counter(SCORE_CANDIDATES.name, SCORE_CANDIDATES.help, registry=registry)

    def record_wait(self, seconds: float) -> None:
        """Count a call that got its turn, or gave up waiting for it."""
        self._queue.observe(seconds)

    def record_scoring(self, seconds: float, candidates: int) -> None:
        """Count a call that was scored."""
        self._seconds.observe(seconds)
        self._candidates.inc(candidates)
