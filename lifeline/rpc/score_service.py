"""The gRPC service that scores candidates on the user's current history.

A request holds one of `max_concurrent` slots while it reads and scores. A request that waits longer than
`max_queue_ms` for a slot is refused with RESOURCE_EXHAUSTED, and no work starts after a call's deadline.
"""

import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple, Protocol

import grpc
import numpy as np
from numpy.typing import NDArray

from lifeline.core.action_types import ids_of
from lifeline.core.actions import MAX_TIMESTAMP_MS
from lifeline.core.reasons import Reason
from lifeline.core.sequence import EMBEDDING_DIM
from lifeline.core.time_units import DAY_MS, mistaken_unit
from lifeline.core.vocabulary import MAX_SURFACES, Vocabulary
from lifeline.rpc.directory import PartitionDirectory
from lifeline.rpc.status import Refusal
from lifeline.rpc.validation import (
    abort_on_refusal,
    as_of_message,
    check_deadline,
    check_user_id,
    invalid_field,
    reader_at,
    time_left,
)
from lifeline.scorer.experiment import arm_of
from lifeline.scorer.features import History, RequestContext
from lifeline.scorer.history_cache import HistoryCache
from lifeline.scorer.settings import ScorerSettings
from lifeline.v1 import exposure_pb2, score_pb2, score_pb2_grpc

if TYPE_CHECKING:
    # They import torch, which a node without a model does not need.
    from lifeline.scorer.scorer import Explanation, Scorer, Scores

SERVICE = score_pb2.DESCRIPTOR.services_by_name["ScoreService"].full_name


class RecordSink(Protocol):
    """Takes records to log; `lifeline.producer.best_effort_producer.BestEffortProducer` implements it."""

    def offer(self, key: bytes, value: bytes) -> bool:
        """Take a record without blocking, from any thread; return False if it is dropped."""


class Timings(Protocol):
    """Takes the durations of calls; `lifeline.node.metrics.score_timings.ScoreTimings` implements it."""

    def record_wait(self, seconds: float) -> None:
        """Take how long a call waited for a slot, whether or not it got one."""

    def record_scoring(self, seconds: float, candidates: int) -> None:
        """Take how long reading and scoring took, and the number of candidates."""


class CallSinks(NamedTuple):
    """The logs and metrics of Score calls; each may be None."""

    selections: RecordSink | None = None
    """Takes the model's inputs for a random share of requests, `settings.log_share`."""
    exposures: RecordSink | None = None
    """Takes one exposure for each request of a user who is in an experiment."""
    timings: Timings | None = None


class ArmChoice(NamedTuple):
    """The scorer for a user."""

    scorer: "Scorer"
    arm: str | None
    """The experiment's arm; None for a user who is in none."""


class ModelHolder:
    """The active scorers. A node may start without one, and replace it while it serves."""

    def __init__(self, settings: ScorerSettings, scorer: "Scorer | None" = None) -> None:
        self._settings, self._scorer = settings, scorer
        self._arms: Mapping[str, Scorer] = {}

    def install(self, scorer: "Scorer", arms: "Mapping[str, Scorer] | None" = None) -> None:
        """Use `scorer` from the next request on, and the scorers of `arms` for users in the experiment."""
        self._scorer, self._arms = scorer, arms or {}

    @property
    def scorer(self) -> "Scorer | None":
        """The scorer for users who are in no arm; None before the first model."""
        return self._scorer

    def use(self, scorer: "Scorer") -> None:
        """Use `scorer` from the next request on; the scorers of the arms stay as they are."""
        self._scorer = scorer

    def current(self, user_id: str) -> ArmChoice | None:
        """Return the scorer for a user, None before the first model."""
        # Read once: another thread may replace it.
        scorer = self._scorer
        if scorer is None:
            return None
        arm = arm_of(self._settings.experiment, user_id, self._settings.arms) if self._arms else None
        return ArmChoice(scorer if arm is None else self._arms[arm], arm)


class ScoreService(score_pb2_grpc.ScoreServiceServicer):
    """Scores the users of a directory's partitions with the active model."""

    def __init__(
        self,
        directory: PartitionDirectory,
        models: ModelHolder,
        vocabulary: Vocabulary,
        settings: ScorerSettings,
        histories: HistoryCache,
        *,
        max_reply_bytes: int,
        sinks: CallSinks = CallSinks(),  # noqa: B008 - it is immutable
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Refuse replies larger than `max_reply_bytes`; `clock` returns seconds since 1970."""
        self._directory, self._models = directory, models
        self._vocabulary, self._settings, self._histories = vocabulary, settings, histories
        self._max_reply_bytes, self._clock = max_reply_bytes, clock
        self._sinks = sinks
        self._slots = threading.BoundedSemaphore(settings.max_concurrent)

    def Score(  # noqa: N802 - the name of the method on the wire
        self, request: score_pb2.ScoreRequest, context: grpc.ServicerContext
    ) -> score_pb2.ScoreResponse:
        """Implement Score, as score.proto defines it."""
        with abort_on_refusal(context):
            check_user_id(request.user_id)
            item_id, embedding = parse_candidates(request, self._settings.max_candidates)
            self._check_contributions(request)
            request_context = self._parse_context(request.context)
            choice = self._models.current(request.user_id)
            if choice is None:
                raise Refusal(
                    grpc.StatusCode.FAILED_PRECONDITION,
                    Reason.MODEL_NOT_LOADED,
                    "this node has no model: train one into scorer.models_dir and restart the node",
                )
            scorer = choice.scorer
            min_offset = request.min_offset if request.HasField("min_offset") else None
            reader = reader_at(self._directory, request.user_id, min_offset, context)
            with self._slot(context):
                started = time.perf_counter()
                as_of, history = self._histories.history(reader, request.user_id, scorer.config)
                self._check_unit(request.context, history)
                check_deadline(context)
                scores = scorer.score(
                    history,
                    item_id,
                    request_context,
                    candidate_embeddings=embedding,
                    explain=request.contributions if request.explain else None,
                )
            if self._sinks.timings is not None:
                self._sinks.timings.record_scoring(time.perf_counter() - started, len(item_id))
            reply = score_pb2.ScoreResponse(
                heads=scores.heads,
                score=scores.score.tolist(),
                probability=scores.probabilities.ravel().tolist(),
                embedding_known=scores.embedding_known.tolist(),
                as_of=as_of_message(as_of),
                model=score_pb2.ModelVersion(name=scorer.manifest.name, version=scorer.manifest.version),
            )
            self._explain(reply, request_context, scores)
            if choice.arm is not None and self._sinks.exposures is not None:
                exposure = exposure_pb2.Exposure(
                    experiment=self._settings.experiment,
                    arm=choice.arm,
                    user_id=request.user_id,
                    timestamp_ms=request_context.timestamp_ms,
                    model=scorer.manifest.name,
                    model_version=scorer.manifest.version,
                    item_id=item_id[np.argsort(-scores.score)].tolist(),
                )
                self._sinks.exposures.offer(request.user_id.encode(), exposure.SerializeToString())
            # A random share of all requests, not of the users: training needs an unbiased sample.
            if self._sinks.selections is not None and random.random() < self._settings.log_share:  # noqa: S311
                from lifeline.scorer.selection_log import encode  # noqa: PLC0415 - it imports torch

                logged = scorer.logged(request.user_id, scores)
                self._sinks.selections.offer(request.user_id.encode(), encode(logged))
            return reply

    def _check_contributions(self, request: score_pb2.ScoreRequest) -> None:
        limit = self._settings.max_candidates
        if request.contributions and not request.explain:
            raise invalid_field("contributions", "they are part of an explanation: set explain too, or leave them out")
        if request.contributions * len(request.item_id) > limit:
            raise invalid_field(
                "contributions",
                f"{request.contributions} tokens for each of {len(request.item_id)} candidates are more than {limit} "
                "in total: request fewer tokens or fewer candidates",
                limit=str(limit),
            )

    def _parse_context(self, context: score_pb2.ScoreContext) -> RequestContext:
        if context.surface >= MAX_SURFACES or not self._vocabulary.known_surfaces[context.surface]:
            raise invalid_field(
                "context.surface",
                f"{context.surface} is not in the vocabulary: give one of its ids, or 0 for unknown",
            )
        if not context.HasField("timestamp_ms"):
            return RequestContext(int(self._clock() * 1000), context.surface)
        if not 0 <= context.timestamp_ms < MAX_TIMESTAMP_MS:
            unit = mistaken_unit(context.timestamp_ms, self._latest_ms() // 2, self._latest_ms())
            raise invalid_field(
                "context.timestamp_ms",
                f"{context.timestamp_ms} is not a time from 1970 to 2100 in milliseconds"
                f"{f' (it may be in {unit})' if unit else ''}: correct it, or leave it out for now",
            )
        return RequestContext(context.timestamp_ms, context.surface)

    def _check_unit(self, context: score_pb2.ScoreContext, history: History) -> None:
        """Refuse a time that fits the user's history in another unit only: its scores would be those of 1970."""
        times = [tokens.timestamp_ms for tokens in (history.explicit, history.impressions) if len(tokens)]
        if not times or not context.HasField("timestamp_ms"):
            return
        first_ms = min(int(part.min()) for part in times)
        last_ms = max(self._latest_ms(), *(int(part.max()) for part in times))
        unit = mistaken_unit(context.timestamp_ms, first_ms, last_ms)
        if unit is not None:
            raise invalid_field(
                "context.timestamp_ms",
                f"{context.timestamp_ms} does not fit the user's history in milliseconds, and does in "
                f"{unit}: give milliseconds since 1970, or leave it out for now",
            )

    def _latest_ms(self) -> int:
        """Return the latest time that a request may honestly be made at, by a clock that is wrong by a day."""
        return int(self._clock() * 1000) + DAY_MS

    @contextmanager
    def _slot(self, context: grpc.ServicerContext) -> Iterator[None]:
        """Hold one of the slots; raises Refusal if none becomes free in time."""
        started = time.perf_counter()
        has_slot = self._slots.acquire(timeout=min(self._settings.max_queue_ms / 1000, time_left(context)))
        if self._sinks.timings is not None:
            self._sinks.timings.record_wait(time.perf_counter() - started)
        if not has_slot:
            check_deadline(context)
            raise Refusal(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                Reason.OVERLOADED,
                f"{self._settings.max_concurrent} requests are being scored, and none ended within "
                f"{self._settings.max_queue_ms} ms: retry with exponential back-off, or add nodes",
            ).with_retry_delay(self._settings.max_queue_ms / 1000)
        try:
            check_deadline(context)
            yield
        finally:
            self._slots.release()

    def _explain(self, reply: score_pb2.ScoreResponse, request_context: RequestContext, scores: "Scores") -> None:
        """Add the selected tokens, if they were requested; raises Refusal if the reply is too large."""
        size = reply.ByteSize()
        self._check_size(size)
        if scores.explanation is None:
            return
        tokens = _TokenMessages(scores.explanation, request_context.timestamp_ms)
        for row in range(len(scores.score)):
            # Check the size as it grows, so that no reply far above the limit is built; 6 bytes for tag and length.
            explanation = score_pb2.Explanation(selected=tokens.of(row))
            size += explanation.ByteSize() + 6
            reply.explanations.append(explanation)
            self._check_size(size)

    def _check_size(self, size: int) -> None:
        if size > self._max_reply_bytes:
            raise Refusal(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                Reason.REPLY_TOO_LARGE,
                f"the reply exceeds {self._max_reply_bytes} bytes: request fewer candidates, or no explanation",
                limit=str(self._max_reply_bytes),
            )


def parse_candidates(request: score_pb2.ScoreRequest, limit: int) -> tuple[NDArray[np.uint64], NDArray[np.int8] | None]:
    """Return uint64[c] items and int8[c, 32] embeddings, None if the request has none; raises Refusal."""
    count = len(request.item_id)
    if not 1 <= count <= limit:
        raise invalid_field(
            "item_id",
            f"there are {count}: send 1 to {limit} in one request",
            Reason.CANDIDATES_INVALID,
            limit=str(limit),
        )
    item_id = np.array(request.item_id, np.uint64)
    if not request.embedding:
        return item_id, None
    if len(request.embedding) != count * EMBEDDING_DIM:
        raise invalid_field(
            "embedding",
            f"it has {len(request.embedding)} bytes for {count} candidates: send {EMBEDDING_DIM} for each, or leave it "
            "out",
            Reason.CANDIDATES_INVALID,
        )
    embedding = np.frombuffer(request.embedding, np.int8).reshape(count, EMBEDDING_DIM)
    invalid = np.flatnonzero((embedding == -128).any(axis=1))
    if len(invalid):
        raise invalid_field(
            "embedding",
            f"that of candidate {invalid[0]} has a byte of -128: quantize it as defined at Item.embedding, or leave it "
            "out",
            Reason.CANDIDATES_INVALID,
        )
    return item_id, embedding


class _TokenMessages:
    """Converts selected tokens to messages."""

    def __init__(self, explanation: "Explanation", timestamp_ms: int) -> None:
        self._selection, self._contribution = explanation.selection, explanation.contribution
        tokens = explanation.history.tokens
        self._item_id = tokens.item_id.tolist()
        self._timestamp_ms = tokens.timestamp_ms.tolist()
        self._action_types = tokens.action_types.tolist()
        self._surface = tokens.surface.tolist()
        self._now_ms = timestamp_ms
        self._ids = {bits: ids_of(bits) for bits in set(self._action_types)}

    def of(self, row: int) -> list[score_pb2.SelectedToken]:
        """Return one candidate's tokens in the encoder's order, without the neutral token."""
        selected = self._selection.index[row] >= 0
        return [
            score_pb2.SelectedToken(
                source=source,
                item_id=self._item_id[index],
                timestamp_ms=self._timestamp_ms[index],
                action_types=self._ids[self._action_types[index]],
                surface=self._surface[index],
                similarity=similarity,
                age_ms=self._now_ms - self._timestamp_ms[index],
                # NaN, the only value that differs from itself, means: not requested.
                contribution=contribution if contribution == contribution else None,  # noqa: PLR0124
            )
            for index, source, similarity, contribution in zip(
                self._selection.index[row, selected].tolist(),
                self._selection.source[row, selected].tolist(),
                self._selection.similarity[row, selected].tolist(),
                self._contribution[row, selected].tolist(),
                strict=True,
            )
        ]
