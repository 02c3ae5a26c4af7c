"""gRPC: Score, every candidate's probabilities on the user's history as it is now.

A request holds one of `max_concurrent` turns while it reads and scores. Whoever waits longer than
`max_queue_ms` for one is refused with RESOURCE_EXHAUSTED, and work whose deadline has passed is not begun.
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
from lifeline.scorer.features import RequestContext
from lifeline.scorer.history_cache import HistoryCache
from lifeline.scorer.settings import ScorerSettings
from lifeline.v1 import exposure_pb2, score_pb2, score_pb2_grpc

if TYPE_CHECKING:
    # These import torch, which a node without a model does not need.
    from lifeline.scorer.scorer import Explanation, Scorer, Scores

SERVICE = score_pb2.DESCRIPTOR.services_by_name["ScoreService"].full_name


class RecordSink(Protocol):
    """Where selected requests and exposures are logged: `stream.side_topic.BestEffortProducer` fits."""

    def offer(self, key: bytes, value: bytes) -> bool:
        """Take a record, at once and from any thread; False where it is dropped."""


class Timings(Protocol):
    """Who is told how long calls took: `lifeline.metrics.score_timings.ScoreTimings` fits."""

    def record_wait(self, seconds: float) -> None:
        """Take how long a call waited for its turn, whether or not it came."""

    def record_scoring(self, seconds: float, candidates: int) -> None:
        """Take how long a call that had its turn was read and scored, and what for."""


class CallSinks(NamedTuple):
    """Who is told of calls, beside their callers."""

    selections: RecordSink | None = None
    """Of a share of what the model reads, `settings.log_share`."""
    exposures: RecordSink | None = None
    """Of who was answered in which arm of the experiment."""
    timings: Timings | None = None


class ArmChoice(NamedTuple):
    """Who answers a user."""

    scorer: "Scorer"
    arm: str | None
    """Of the experiment; None for a user who is in none."""


class ModelHolder:
    """The scorers that answer now. A node may start without one, and exchange it while it serves."""

    def __init__(self, settings: ScorerSettings, scorer: "Scorer | None" = None) -> None:
        self._settings, self._scorer = settings, scorer
        self._arms: Mapping[str, Scorer] = {}

    def install(self, scorer: "Scorer", arms: "Mapping[str, Scorer] | None" = None) -> None:
        """Answer with `scorer` from the next request on, and users of the experiment's arms with theirs."""
        self._scorer, self._arms = scorer, arms or {}

    @property
    def scorer(self) -> "Scorer | None":
        """What answers users that are in no arm; None before the first model."""
        return self._scorer

    def use(self, scorer: "Scorer") -> None:
        """Answer with `scorer` from the next request on; an experiment's arms stay as they are."""
        self._scorer = scorer

    def current(self, user_id: str) -> ArmChoice | None:
        """Return who answers a user, or None before the first model."""
        # Looked at once: another thread may exchange it.
        scorer = self._scorer
        if scorer is None:
            return None
        arm = arm_of(self._settings.experiment, user_id, self._settings.arms) if self._arms else None
        return ArmChoice(scorer if arm is None else self._arms[arm], arm)


class ScoreService(score_pb2_grpc.ScoreServiceServicer):
    """Scores users of a directory's partitions with the model that is held."""

    def __init__(
        self,
        directory: PartitionDirectory,
        models: ModelHolder,
        vocabulary: Vocabulary,
        settings: ScorerSettings,
        tables: HistoryCache,
        *,
        max_reply_bytes: int,
        sinks: CallSinks = CallSinks(),  # noqa: B008 - it never changes
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Refuse replies larger than `max_reply_bytes`; `clock` gives seconds since 1970."""
        self._directory, self._models = directory, models
        self._vocabulary, self._settings, self._tables = vocabulary, settings, tables
        self._max_reply_bytes, self._clock = max_reply_bytes, clock
        self._sinks = sinks
        self._turns = threading.BoundedSemaphore(settings.max_concurrent)

    def Score(  # noqa: N802 - the name of the method on the wire
        self, request: score_pb2.ScoreRequest, context: grpc.ServicerContext
    ) -> score_pb2.ScoreResponse:
        """Answer Score; score.proto says how."""
        with abort_on_refusal(context):
            check_user_id(request.user_id)
            item_id, embedding = parse_candidates(request, self._settings.max_candidates)
            self._check_contributions(request)
            asked = self._parse_context(request.context)
            chosen = self._models.current(request.user_id)
            if chosen is None:
                raise Refusal(
                    grpc.StatusCode.FAILED_PRECONDITION,
                    Reason.MODEL_NOT_LOADED,
                    "this node has no model: train one into scorer.models_dir and start the node again",
                )
            scorer = chosen.scorer
            min_offset = request.min_offset if request.HasField("min_offset") else None
            reader = reader_at(self._directory, request.user_id, min_offset, context)
            with self._turn(context):
                begun = time.perf_counter()
                as_of, history = self._tables.history(reader, request.user_id, scorer.config)
                check_deadline(context)
                scores = scorer.score(
                    history,
                    item_id,
                    asked,
                    candidate_embeddings=embedding,
                    explain=request.contributions if request.explain else None,
                )
            if self._sinks.timings is not None:
                self._sinks.timings.record_scoring(time.perf_counter() - begun, len(item_id))
            reply = score_pb2.ScoreResponse(
                heads=scores.heads,
                score=scores.score.tolist(),
                probability=scores.probabilities.ravel().tolist(),
                embedding_known=scores.embedding_known.tolist(),
                as_of=as_of_message(as_of),
                model=score_pb2.ModelVersion(name=scorer.manifest.name, version=scorer.manifest.version),
            )
            self._explain(reply, asked, scores)
            if chosen.arm is not None and self._sinks.exposures is not None:
                exposure = exposure_pb2.Exposure(
                    experiment=self._settings.experiment,
                    arm=chosen.arm,
                    user_id=request.user_id,
                    timestamp_ms=asked.timestamp_ms,
                    model=scorer.manifest.name,
                    model_version=scorer.manifest.version,
                    item_id=item_id[np.argsort(-scores.score)].tolist(),
                )
                self._sinks.exposures.offer(request.user_id.encode(), exposure.SerializeToString())
            # Chance decides, not the user: a share of everyone's requests is what a model should learn from.
            if self._sinks.selections is not None and random.random() < self._settings.log_share:  # noqa: S311
                from lifeline.scorer.selection_log import encode  # noqa: PLC0415 - it imports torch

                logged = scorer.logged(request.user_id, scores)
                self._sinks.selections.offer(request.user_id.encode(), encode(logged))
            return reply

    def _check_contributions(self, request: score_pb2.ScoreRequest) -> None:
        most = self._settings.max_candidates
        if request.contributions and not request.explain:
            raise invalid_field("contributions", "they are part of an explanation: set explain too, or leave them out")
        if request.contributions * len(request.item_id) > most:
            raise invalid_field(
                "contributions",
                f"{request.contributions} tokens of each of {len(request.item_id)} candidates are more than {most} "
                "together: ask for fewer of one of them",
                limit=str(most),
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
            raise invalid_field(
                "context.timestamp_ms",
                f"{context.timestamp_ms} is not a time from 1970 to 2100 in milliseconds: correct it, or leave it "
                "out for now",
            )
        return RequestContext(context.timestamp_ms, context.surface)

    @contextmanager
    def _turn(self, context: grpc.ServicerContext) -> Iterator[None]:
        """Hold one of the turns; raises Refusal where none comes in time."""
        begun = time.perf_counter()
        has_turn = self._turns.acquire(timeout=min(self._settings.max_queue_ms / 1000, time_left(context)))
        if self._sinks.timings is not None:
            self._sinks.timings.record_wait(time.perf_counter() - begun)
        if not has_turn:
            check_deadline(context)
            raise Refusal(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                Reason.OVERLOADED,
                f"{self._settings.max_concurrent} requests are being scored and none ended within "
                f"{self._settings.max_queue_ms} ms: retry later, each time waiting longer, or add nodes",
            ).with_retry_delay(self._settings.max_queue_ms / 1000)
        try:
            check_deadline(context)
            yield
        finally:
            self._turns.release()

    def _explain(self, reply: score_pb2.ScoreResponse, asked: RequestContext, scores: "Scores") -> None:
        """Add the selected tokens, if they were asked for; raises Refusal where the reply is too large."""
        size = reply.ByteSize()
        self._check_size(size)
        if scores.explanation is None:
            return
        explained = _Explained(scores.explanation, asked.timestamp_ms)
        for row in range(len(scores.score)):
            # Counted as it grows, so that a reply far over the limit is never built; 6 bytes for tag and length.
            explanation = score_pb2.Explanation(selected=explained.tokens(row))
            size += explanation.ByteSize() + 6
            reply.explanations.append(explanation)
            self._check_size(size)

    def _check_size(self, size: int) -> None:
        if size > self._max_reply_bytes:
            raise Refusal(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                Reason.REPLY_TOO_LARGE,
                f"the reply exceeds {self._max_reply_bytes} bytes: ask for fewer candidates, or without explain",
                limit=str(self._max_reply_bytes),
            )


def parse_candidates(request: score_pb2.ScoreRequest, most: int) -> tuple[NDArray[np.uint64], NDArray[np.int8] | None]:
    """Return uint64[c] items, and int8[c, 32] given embeddings if there are any; raises Refusal."""
    count = len(request.item_id)
    if not 1 <= count <= most:
        raise invalid_field(
            "item_id",
            f"there are {count}: give 1 to {most} in one request",
            Reason.CANDIDATES_INVALID,
            limit=str(most),
        )
    item_id = np.array(request.item_id, np.uint64)
    if not request.embedding:
        return item_id, None
    if len(request.embedding) != count * EMBEDDING_DIM:
        raise invalid_field(
            "embedding",
            f"it has {len(request.embedding)} bytes for {count} candidates: give {EMBEDDING_DIM} of each, or leave it "
            "out",
            Reason.CANDIDATES_INVALID,
        )
    embedding = np.frombuffer(request.embedding, np.int8).reshape(count, EMBEDDING_DIM)
    wrong = np.flatnonzero((embedding == -128).any(axis=1))
    if len(wrong):
        raise invalid_field(
            "embedding",
            f"that of candidate {wrong[0]} has a byte of -128: quantize it as Item.embedding says, or leave it out",
            Reason.CANDIDATES_INVALID,
        )
    return item_id, embedding


class _Explained:
    """The selected tokens as messages."""

    def __init__(self, explanation: "Explanation", timestamp_ms: int) -> None:
        self._selection, self._contribution = explanation.selection, explanation.contribution
        tokens = explanation.history.tokens
        self._item_id = tokens.item_id.tolist()
        self._timestamp_ms = tokens.timestamp_ms.tolist()
        self._action_types = tokens.action_types.tolist()
        self._surface = tokens.surface.tolist()
        self._now_ms = timestamp_ms
        self._ids = {bits: ids_of(bits) for bits in set(self._action_types)}

    def tokens(self, row: int) -> list[score_pb2.SelectedToken]:
        """Return one candidate's tokens in the encoder's order; the neutral token is not one."""
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
                # NaN is no number that equals itself.
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
