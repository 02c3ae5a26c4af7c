"""The parts of a node that score: its models, the history cache, and the producers of the side topics."""

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Self

from lifeline.config import Settings
from lifeline.node.models import Models
from lifeline.producer.best_effort_producer import BestEffortProducer
from lifeline.rpc.directory import PartitionDirectory
from lifeline.rpc.score_service import CallSinks, ScoreService, Timings
from lifeline.scorer.history_cache import HistoryCache
from lifeline.store.embeddings import EmbeddingTable

_STOP_S = 5.0
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Scoring:
    """The parts that the Score service uses."""

    settings: Settings
    models: Models
    cache: HistoryCache
    selections: BestEffortProducer | None
    """The producer of the selections topic, if a share of the requests is logged."""
    exposures: BestEffortProducer | None
    """The producer of the exposures topic, during an experiment."""

    @classmethod
    def start(cls, settings: Settings, embeddings: EmbeddingTable, stack: AsyncExitStack) -> Self:
        """Load the models and start the producers; `stack` flushes and closes them. Raises ScorerError."""
        scorer, kafka = settings.scorer, settings.kafka
        models = Models(settings, embeddings)
        cache = HistoryCache(round(scorer.token_tables_mib * _MIB))
        selections = _start_producer(settings, kafka.selections_topic, stack) if scorer.log_share else None
        exposures = _start_producer(settings, kafka.exposures_topic, stack) if scorer.experiment else None
        return cls(settings, models, cache, selections, exposures)

    @property
    def producers(self) -> list[BestEffortProducer]:
        """The producers that run."""
        return [producer for producer in (self.selections, self.exposures) if producer is not None]

    def service(self, directory: PartitionDirectory, timings: Timings | None) -> ScoreService:
        """Return the service that answers Score."""
        return ScoreService(
            directory,
            self.models.holder,
            self.settings.vocabulary,
            self.settings.scorer,
            self.cache,
            max_reply_bytes=self.settings.node.max_message_mib * _MIB,
            sinks=CallSinks(self.selections, self.exposures, timings),
        )


def _start_producer(settings: Settings, topic: str, stack: AsyncExitStack) -> BestEffortProducer:
    producer = BestEffortProducer(settings.kafka, topic)
    # The server stops earlier, so the records of its last calls are published.
    stack.push_async_callback(asyncio.to_thread, producer.close, _STOP_S)
    return producer
