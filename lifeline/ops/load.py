"""Load: reads and scores at a fixed rate, whatever the node answers, and their latencies.

The calls are an open loop: a Poisson process sets the time at which each call is due, and latency counts from then. So
a stall counts in the latency of every call that it delays (this avoids coordinated omission, a term of Gil Tene).
Latencies are recorded in HdrHistograms of three digits. Calls are not retried, so that only the node is measured.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Annotated, Any, Literal, NamedTuple

import grpc
import grpc.aio
import numpy as np
from google.protobuf.message import Message
from hdrh.histogram import HdrHistogram
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from lifeline.client import MAX_REPLY_BYTES
from lifeline.core.actions import Kind
from lifeline.core.errors import LoadError
from lifeline.core.security import CallSecurity
from lifeline.core.sequence import Column
from lifeline.core.wire import WIRE_COLUMNS, WIRE_KINDS
from lifeline.store.readable_partition import ReadablePartition
from lifeline.v1 import score_pb2, sequence_pb2
from lifeline.v1.score_pb2_grpc import ScoreServiceStub
from lifeline.v1.sequence_pb2_grpc import SequenceServiceStub

CallKind = Literal["read", "score"]
_DISTINCT = 512
"""Requests of each kind, built beforehand: building them costs more than sending them."""
_MAX_US = 600_000_000
_REPLIES = ("grpc.max_receive_message_length", MAX_REPLY_BYTES)
_COLUMNS = [wire for column, wire in WIRE_COLUMNS.items() if column in Column.EVENT]


def _histogram() -> HdrHistogram:
    return HdrHistogram(1, _MAX_US, 3)


class LoadPlan(BaseModel):
    """The calls to make."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rate: Annotated[float, Field(gt=0, description="calls a second, on average")]
    seconds: Annotated[float, Field(gt=0, description="how long calls become due")]
    score_share: Annotated[float, Field(ge=0, le=1, description="share of the calls that are Score")] = 0.5
    candidates: Annotated[int, Field(ge=1, description="candidates of a Score")] = 256
    newest: Annotated[int, Field(ge=0, description="events of a read; 0: all")] = 0
    timeout_s: Annotated[float, Field(gt=0, description="the deadline of a call")] = 5.0
    connections: Annotated[int, Field(ge=1, description="connections, used in turn")] = 4
    seed: Annotated[int, Field(ge=0, description="seed of the times, the users and the candidates")] = 0


class Population(NamedTuple):
    """The users and items of the calls."""

    users: Sequence[str]
    items: NDArray[np.uint64]
    """uint64[m]."""

    @classmethod
    def of_stores(cls, stores: Iterable[ReadablePartition], max_users: int = 10_000) -> "Population":
        """Return the first `max_users` users of each partition, by id, and all items that were acted on.

        Raises LoadError if there are no users.
        """
        users: list[str] = []
        items = [np.empty(0, np.uint64)]
        for store in stores:
            users += islice(store.users(), max_users)
            with store.view() as view:
                items.append(view.item_ids.copy())
        if not users:
            raise LoadError("the data directory has no users yet: publish actions first (lifeline produce)")
        return cls(users, np.unique(np.concatenate(items)))


@dataclass(slots=True)
class CallResults:
    """The results of the calls of one kind."""

    answered: HdrHistogram = field(default_factory=_histogram)
    """Microseconds from when a call was due until its answer."""
    failed: HdrHistogram = field(default_factory=_histogram)
    """The same, of calls that failed or were refused."""
    codes: Counter[str] = field(default_factory=Counter)
    """How many failed, by gRPC status."""

    def as_json(self) -> dict[str, object]:
        """Return the counts and the percentiles, for programs."""
        return {
            "answered": self.answered.get_total_count(),
            "failed": dict(self.codes),
            "latency_ms": percentiles_ms(self.answered),
            "failed_latency_ms": percentiles_ms(self.failed) if self.codes else None,
        }


@dataclass(slots=True)
class LoadResult:
    """The results of a load."""

    plan: LoadPlan
    kinds: Mapping[CallKind, CallResults]
    seconds: float
    """From the first call's due time to the last answer."""
    late: HdrHistogram
    """Microseconds from when a call was due until it was sent: large values mean that this process is too slow."""

    @property
    def answered_per_s(self) -> float:
        """Calls of all kinds."""
        total: int = sum(results.answered.get_total_count() for results in self.kinds.values())
        return total / self.seconds

    def as_json(self) -> dict[str, object]:
        """Return everything, for programs."""
        return {
            "plan": self.plan.model_dump(),
            "seconds": self.seconds,
            "answered_per_s": self.answered_per_s,
            "sent_late_ms": percentiles_ms(self.late),
            "calls": {kind: answers.as_json() for kind, answers in self.kinds.items()},
        }


def percentiles_ms(histogram: HdrHistogram) -> dict[str, float]:
    """Return the usual percentiles of a histogram of microseconds, in milliseconds."""
    percentiles = {f"p{share:g}": histogram.get_value_at_percentile(share) / 1_000 for share in (50, 90, 99, 99.9)}
    return percentiles | {"max": histogram.get_max_value() / 1_000}


def run_load(plan: LoadPlan, population: Population, address: str, security: CallSecurity) -> LoadResult:
    """Make the calls, and wait for the last answer. Raises LoadError if there are fewer items than candidates."""
    if plan.score_share and len(population.items) < plan.candidates:
        raise LoadError(
            f"there are {len(population.items)} items, but a Score call needs {plan.candidates} candidates: lower "
            "--candidates"
        )
    return asyncio.run(_run(plan, population, address, security))


class _Call(NamedTuple):
    kind: CallKind
    due_s: float
    """After the start."""
    request: Message


async def _run(plan: LoadPlan, population: Population, address: str, security: CallSecurity) -> LoadResult:
    calls = _calls(plan, population)
    result = LoadResult(
        plan, {kind: CallResults() for kind in sorted({call.kind for call in calls})}, 0.0, _histogram()
    )
    # Different options, because channels with equal options share one connection.
    channels = [
        security.aio_channel(address, [_REPLIES, ("lifeline.connection", number)]) for number in range(plan.connections)
    ]
    try:
        await _connected(channels, address, plan.timeout_s)
        senders: list[Mapping[CallKind, Callable[..., grpc.aio.UnaryUnaryCall[Any, Any]]]] = [
            {"read": SequenceServiceStub(channel).GetSequence, "score": ScoreServiceStub(channel).Score}
            for channel in channels
        ]
        started = time.perf_counter()
        waiting: set[asyncio.Task[None]] = set()
        for number, call in enumerate(calls):
            due = started + call.due_s
            if (early := due - time.perf_counter()) > 0:
                await asyncio.sleep(early)
            result.late.record_value(_microseconds(time.perf_counter() - due))
            sent = senders[number % len(senders)][call.kind](
                call.request, timeout=plan.timeout_s, metadata=security.metadata
            )
            task = asyncio.create_task(_record(sent, due, result.kinds[call.kind]))
            waiting.add(task)
            task.add_done_callback(waiting.discard)
        await asyncio.gather(*waiting)
        result.seconds = time.perf_counter() - started
    finally:
        for channel in channels:
            await channel.close(None)
    return result


async def _record(sent: grpc.aio.UnaryUnaryCall[Any, Any], due: float, answers: CallResults) -> None:
    try:
        await sent
    except grpc.aio.AioRpcError as error:
        answers.failed.record_value(_microseconds(time.perf_counter() - due))
        answers.codes[error.code().name] += 1
    else:
        answers.answered.record_value(_microseconds(time.perf_counter() - due))


def _calls(plan: LoadPlan, population: Population) -> list[_Call]:
    """Return every call, in the order of their due times."""
    rng = np.random.default_rng(plan.seed)
    gaps = rng.exponential(1 / plan.rate, max(1, int(plan.rate * plan.seconds * 1.5) + 100))
    due_s = np.cumsum(gaps)
    due_s = due_s[due_s < plan.seconds]
    scores = rng.random(len(due_s)) < plan.score_share
    of_kind = {True: _scores(plan, population, rng), False: _reads(plan, population, rng)}
    which = rng.integers(0, _DISTINCT, len(due_s))
    return [
        _Call("score" if score else "read", at, of_kind[score][number])
        for at, score, number in zip(due_s.tolist(), scores.tolist(), which.tolist(), strict=True)
    ]


def _users(population: Population, rng: np.random.Generator) -> list[str]:
    return [population.users[number] for number in rng.integers(0, len(population.users), _DISTINCT).tolist()]


def _scores(plan: LoadPlan, population: Population, rng: np.random.Generator) -> list[Message]:
    if not plan.score_share:
        return []
    return [
        score_pb2.ScoreRequest(
            user_id=user,
            item_id=rng.choice(population.items, plan.candidates, replace=False).tolist(),
        )
        for user in _users(population, rng)
    ]


def _reads(plan: LoadPlan, population: Population, rng: np.random.Generator) -> list[Message]:
    return [
        sequence_pb2.GetSequenceRequest(
            user_id=user, kinds=[WIRE_KINDS[Kind.EXPLICIT]], newest=plan.newest, columns=_COLUMNS
        )
        for user in _users(population, rng)
    ]


async def _connected(channels: Sequence[grpc.aio.Channel], address: str, timeout_s: float) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            await asyncio.gather(*(channel.channel_ready() for channel in channels))
    except TimeoutError:
        raise LoadError(f"{address} cannot be reached: start the node, or name another --address") from None


def _microseconds(seconds: float) -> int:
    return max(1, round(seconds * 1e6))
