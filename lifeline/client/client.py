"""The client library: a user's sequences and scores over gRPC, as NumPy columns.

    with LifelineClient("127.0.0.1:50051") as client:
        newest = client.get_sequence("user1", SequenceQuery(newest=10)).sequences[Kind.EXPLICIT]
        ranked = client.score("user1", [item_a, item_b]).score.argsort()[::-1]

It needs the bare package alone. One client serves any number of threads.

Of several nodes each holds some partitions. Any node will do as the address: it forwards a call to the owner, or
answers who that is, and the client then asks the owner directly. Where a node refuses or is away it asks the others,
and tries again, with growing pauses, until the call's one deadline: so a rolling restart is seen as a slower answer.
Reads and scores change nothing, so asking twice is safe; snapshots are asked for once, of the first address.
"""

import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, NamedTuple, Self, TypeVar, cast

import grpc
import numpy as np
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from numpy.typing import NDArray
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_before_delay, wait_random_exponential

from lifeline.core.errors import ActionableError
from lifeline.core.metadata import OWNER, PARTITIONS
from lifeline.core.partitioner import partition_of
from lifeline.core.security import IN_THE_CLEAR, CallSecurity
from lifeline.core.sequence import EMBEDDING_DIM, AsOf, Column, SequenceQuery, UserSequences
from lifeline.core.sequence import Sequence as EventSequence
from lifeline.core.wire import KINDS, WIRE_COLUMNS, WIRE_KINDS
from lifeline.v1 import model_pb2, operator_pb2, score_pb2, sequence_pb2
from lifeline.v1.model_pb2_grpc import ModelServiceStub
from lifeline.v1.operator_pb2_grpc import OperatorServiceStub
from lifeline.v1.score_pb2_grpc import ScoreServiceStub
from lifeline.v1.sequence_pb2_grpc import SequenceServiceStub

MAX_REPLY_BYTES = 256 << 20
SNAPSHOT_TIMEOUT_S = 3_600.0

# A node that restarts is back within a second or so: gRPC's own pause between two connections grows to two minutes.
_CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_REPLY_BYTES),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
)
_PASSING = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.CANCELLED})
# What another try, here or elsewhere, may well give; an empty reason is that of a node that is away or going.
_PASSING_REASONS = frozenset(
    {"", "NOT_OWNER", "OWNER_UNREACHABLE", "CATCHING_UP", "OVERLOADED", "WAITS_FULL", "MEMORY_SHORT"}
)
# What gRPC says of a handshake that failed here, and what that means; a handshake that fails there is a closed socket.
_TLS_PROBLEMS = {
    "CERTIFICATE_VERIFY_FAILED": (
        "SERVER_NOT_TRUSTED",
        "has a certificate that nobody signed whom this client trusts: set security.ca to the CA of the nodes",
    ),
    "Hostname Verification Check failed": (
        "SERVER_NAME_WRONG",
        "has a certificate for another name: call the node by a name that its certificate has",
    ),
    "WRONG_VERSION_NUMBER": (
        "SERVER_WITHOUT_TLS",
        "does not speak TLS: leave security.ca and security.tls out, or give the node a certificate",
    ),
}
_CLOSED = "Socket closed"
_backoff = wait_random_exponential(multiplier=0.02, max=0.5)

Reply = TypeVar("Reply")
_UserReply = TypeVar("_UserReply", sequence_pb2.GetSequenceResponse, score_pb2.ScoreResponse)


class LifelineError(ActionableError):
    """A call that did not succeed.

    `code` is the gRPC status, `reason` the node's own word for why (a `store.status.Reason`; empty when the
    answer came from no node, as when none can be reached), `metadata` what belongs to the reason, and
    `retry_after_s` how soon the node thinks that another try is worth its while (0.0: it does not say).
    """

    def __init__(
        self,
        code: grpc.StatusCode,
        reason: str,
        message: str,
        metadata: Mapping[str, str],
        attempts: int = 1,
        retry_after_s: float = 0.0,
    ) -> None:
        self.code, self.reason, self.message, self.metadata = code, reason, message, dict(metadata)
        self.attempts, self.retry_after_s = attempts, retry_after_s
        tried = f" (the last of {attempts} attempts)" if attempts > 1 else ""
        super().__init__(f"{code.name}{f' ({reason})' if reason else ''}: {message}{tried}")

    @property
    def may_pass(self) -> bool:
        """Whether the same call may succeed a little later, or at another node."""
        return self.code in _PASSING and self.reason in _PASSING_REASONS


class TokenSource(IntEnum):
    """Which part of the history a selected token comes from."""

    LIFELONG = score_pb2.TOKEN_SOURCE_LIFELONG
    RECENT = score_pb2.TOKEN_SOURCE_RECENT
    REAL_TIME = score_pb2.TOKEN_SOURCE_REAL_TIME
    IMPRESSION = score_pb2.TOKEN_SOURCE_IMPRESSION


class SelectedToken(NamedTuple):
    """One token that the encoder read for a candidate."""

    source: TokenSource
    item_id: int
    timestamp_ms: int
    """The newest event in the token."""
    action_types: tuple[int, ...]
    surface: int
    similarity: float
    """Cosine with the candidate, -1 to 1; 0 where an embedding is not known."""
    age_ms: int
    contribution: float | None = None
    """The candidate's score less what it would be without this token; None where that was not asked for."""


@dataclass(frozen=True, slots=True)
class Scores:
    """The scores of c candidates over h heads, in the order of the request.

    item_id uint64[c], score float32[c], probability float32[c, h], embedding_known bool[c]. `selected` has
    each candidate's tokens where an explanation was asked for, else an empty tuple for each.
    """

    heads: tuple[str, ...]
    item_id: NDArray[np.uint64]
    score: NDArray[np.float32]
    probability: NDArray[np.float32]
    embedding_known: NDArray[np.bool_]
    selected: tuple[tuple[SelectedToken, ...], ...]
    as_of: AsOf
    model: str
    model_version: str


class PartitionSnapshot(NamedTuple):
    """A snapshot that a node made of one of its partitions."""

    partition: int
    id: str
    applied_offset: int
    """The last offset that is part of it."""
    events: int
    fingerprint: str
    """32 hexadecimal digits."""
    files: int
    total_bytes: int
    uploaded_files: int
    """Files that were not there yet."""
    uploaded_bytes: int
    seconds: float


class PartitionInfo(NamedTuple):
    """A partition that a node holds."""

    partition: int
    role: str
    """owner or standby."""
    state: str
    reason: str
    """Why it refuses, is stalled or has diverged; empty otherwise."""
    applied_offset: int
    lag_records: int
    """Records known to be in the log and not applied yet."""
    events: int
    fingerprint: str
    """32 hexadecimal digits; empty while the store is not open."""


class PartitionPlace(NamedTuple):
    """Where a partition is."""

    partition: int
    owner: str
    standbys: tuple[str, ...]


class ModelInfo(NamedTuple):
    """What scores on a node."""

    name: str
    """Empty before the first model, as is the version."""
    version: str
    kernels: str
    """What does the encoder's work: torch, avx2, avx512 or bf16."""
    versions: tuple[str, ...]
    """Of the model in the node's directory, oldest first."""


class PartitionList(NamedTuple):
    """What a node says of itself and of its group."""

    address: str
    held: Sequence[PartitionInfo]
    """Ascending by partition."""
    placed: Sequence[PartitionPlace]
    """Every partition of the topic, ascending; empty before the first assignment."""


class _Node:
    """A channel to one address, and its stubs."""

    def __init__(self, address: str, security: CallSecurity) -> None:
        self.address = address
        self._security = security
        self._secure = security.credentials is not None
        self.channel = security.channel(address, _CHANNEL_OPTIONS)
        self.sequences = SequenceServiceStub(self.channel)
        self.scores = ScoreServiceStub(self.channel)
        self.operators = OperatorServiceStub(self.channel)
        self.models = ModelServiceStub(self.channel)
        self.connected = False
        """Whether a connection stands; known once `watch` was called."""
        self._watched = False

    def watch(self) -> None:
        """Connect in the background, and keep `connected` up to date."""
        if not self._watched:
            self._watched = True
            self.channel.subscribe(self._changed, try_to_connect=True)

    def _changed(self, state: grpc.ChannelConnectivity) -> None:
        self.connected = state is grpc.ChannelConnectivity.READY

    def ask(
        self,
        method: "Callable[[_Node], grpc.UnaryUnaryMultiCallable[Any, Reply]]",
        request: Message,
        timeout_s: float,
        attempts: int = 1,
    ) -> tuple[Reply, Mapping[str, str]]:
        """Make one call; return the reply and the node's metadata. Raises LifelineError."""
        try:
            reply, call = method(self).with_call(request, timeout=timeout_s, metadata=self._security.metadata)
        except grpc.RpcError as error:
            raise _error(cast("grpc.Call", error), self.address, attempts, secure=self._secure) from error
        return reply, {key: str(value) for key, value in call.initial_metadata()}


class _Places:
    """Which address answered for each partition last; safe in threads."""

    def __init__(self) -> None:
        self._partitions = 0
        self._address_of: dict[int, str] = {}
        self._lock = threading.Lock()

    def address_for(self, user_id: str) -> str | None:
        """Return the address that has the user's partition, if that is known."""
        with self._lock:
            if not self._partitions:
                return None
            return self._address_of.get(partition_of(user_id.encode(), self._partitions)) or None

    def learn(self, user_id: str, address: str, partitions: str) -> None:
        """Remember who has the user's partition; no address: nobody is known to.

        `partitions` says how many there are, in digits; empty when nothing was said. Before it was, nothing is known.
        """
        with self._lock:
            if partitions.isdecimal() and int(partitions) > 0:
                self._partitions = int(partitions)
            if self._partitions:
                self._address_of[partition_of(user_id.encode(), self._partitions)] = address


@dataclass(slots=True)
class LifelineClient:
    """Connections to one node or several.

    `timeout_s` bounds every call that names no timeout of its own, all its attempts and a wait for `min_offset`
    included. Every call raises LifelineError when it does not succeed; without `retry` after the first attempt.
    """

    addresses: str | Sequence[str]
    """host:port, or several; comma separated in a string."""
    timeout_s: float = 5.0
    security: CallSecurity = IN_THE_CLEAR
    """TLS and the token: `CallSecurity.of(SecuritySettings(ca=..., token=...))`.

    A token that would leave the machine in the clear is a SecurityError before anything is sent."""
    retry: bool = True
    follow: bool = True
    """Whether to ask owners at the addresses that nodes tell; for False the nodes must forward.

    With a token only where `CallSecurity.trusts` them, for nodes tell what members of their group advertise."""
    _given: list[str] = field(init=False, repr=False)
    _nodes: dict[str, _Node] = field(init=False, repr=False)
    _places: _Places = field(init=False, repr=False)
    _lock: threading.Lock = field(init=False, repr=False)

    def __post_init__(self) -> None:
        given = self.addresses.split(",") if isinstance(self.addresses, str) else self.addresses
        addresses = list(dict.fromkeys(address.strip() for address in given if address.strip()))
        if not addresses:
            raise ValueError("there is no address: give the host:port of a node at least")
        self._given, self._places, self._lock = addresses, _Places(), threading.Lock()
        self._nodes = {address: _Node(address, self.security) for address in addresses}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; calls under way are cancelled."""
        with self._lock:
            nodes, self._nodes = self._nodes, {}
        for node in nodes.values():
            node.channel.close()

    def get_sequence(
        self,
        user_id: str,
        query: SequenceQuery | None = None,
        *,
        min_offset: int | None = None,
        timeout_s: float | None = None,
    ) -> UserSequences:
        """Return the user's sequences, oldest event first; without a query the whole explicit one.

        With `min_offset`, the offset that an acknowledged record came back with, the answer has that record
        in it. The arrays are read-only.
        """
        query = query or SequenceQuery()
        if query.newest is not None and query.newest < 1:
            raise ValueError(f"newest is {query.newest}: ask for at least one event, or None for all")
        request = sequence_pb2.GetSequenceRequest(
            user_id=user_id,
            kinds=[WIRE_KINDS[kind] for kind in query.kinds],
            newest=query.newest or 0,
            from_timestamp_ms=query.from_timestamp_ms,
            to_timestamp_ms=query.to_timestamp_ms,
            action_types=sorted(query.action_types),
            columns=[wire for column, wire in WIRE_COLUMNS.items() if column in query.columns],
            min_offset=min_offset,
        )
        reply = self._call(user_id, lambda node: node.sequences.GetSequence, request, timeout_s)
        sequences = {KINDS[part.kind]: _unpack(part, query.columns) for part in reply.sequences}
        return UserSequences(_as_of(reply.as_of), sequences)

    def score(
        self,
        user_id: str,
        candidates: Sequence[int] | NDArray[np.uint64],
        *,
        embeddings: Mapping[int, NDArray[np.int8]] | None = None,
        timestamp_ms: int | None = None,
        surface: int = 0,
        min_offset: int | None = None,
        explain: int | None = None,
        timeout_s: float | None = None,
    ) -> Scores:
        """Return the candidates' scores on the user's history as it is now.

        `embeddings` gives int8[32] for items that the node's embedding table may lack; `timestamp_ms` is when the
        request is made, now when not given; `min_offset` as in `get_sequence`. With `explain` the answer has each
        candidate's tokens, and the contribution of so many of them (0: of none), the most similar first.
        """
        item_id = np.asarray(candidates, np.uint64)
        request = score_pb2.ScoreRequest(
            user_id=user_id,
            item_id=item_id.tolist(),
            embedding=_embeddings(item_id, embeddings) if embeddings else b"",
            context=score_pb2.ScoreContext(timestamp_ms=timestamp_ms, surface=surface),
            min_offset=min_offset,
            explain=explain is not None,
            contributions=explain or 0,
        )
        reply = self._call(user_id, lambda node: node.scores.Score, request, timeout_s)
        heads = tuple(reply.heads)
        score = np.array(reply.score, np.float32)
        if not len(score) == len(item_id) == len(reply.embedding_known):
            raise LifelineError(
                grpc.StatusCode.DATA_LOSS,
                "",
                f"{len(score)} scores came for {len(item_id)} candidates: use a client of the node's own version",
                {},
            )
        return Scores(
            heads=heads,
            item_id=item_id,
            score=score,
            probability=np.array(reply.probability, np.float32).reshape(len(score), len(heads)),
            embedding_known=np.array(reply.embedding_known, np.bool_),
            selected=tuple(tuple(map(_token, one.selected)) for one in reply.explanations) or ((),) * len(score),
            as_of=_as_of(reply.as_of),
            model=reply.model.name,
            model_version=reply.model.version,
        )

    def create_snapshot(
        self, partitions: Sequence[int] = (), *, timeout_s: float = SNAPSHOT_TIMEOUT_S
    ) -> list[PartitionSnapshot]:
        """Have the node copy partitions, without any named all that it serves, to where its configuration says.

        Returns once every copy is whole, partitions ascending. It takes as long as the upload of what is new.
        """
        request = operator_pb2.CreateSnapshotRequest(partitions=partitions)
        reply = self._ask_first(lambda node: node.operators.CreateSnapshot, request, timeout_s)
        return [
            PartitionSnapshot(
                partition=one.partition,
                id=one.snapshot_id,
                applied_offset=one.applied_offset,
                events=one.events,
                fingerprint=one.fingerprint,
                files=one.files,
                total_bytes=one.total_bytes,
                uploaded_files=one.uploaded_files,
                uploaded_bytes=one.uploaded_bytes,
                seconds=one.seconds,
            )
            for one in reply.snapshots
        ]

    def get_model(self, *, timeout_s: float | None = None) -> ModelInfo:
        """Return which version answers on the first address, and which there are."""
        reply = self._ask_first(lambda node: node.models.GetModel, model_pb2.GetModelRequest(), timeout_s)
        return ModelInfo(reply.model.name, reply.model.version, reply.kernels, tuple(reply.versions))

    def use_model(self, version: str = "", *, timeout_s: float | None = None) -> tuple[str, str]:
        """Have a version answer on the first address, without one the newest.

        Returns the version that answers now, and the one that did before: empty where there was none.
        """
        request = model_pb2.UseModelRequest(version=version)
        reply = self._ask_first(lambda node: node.models.UseModel, request, timeout_s)
        return reply.model.version, reply.previous.version

    def list_partitions(self, *, timeout_s: float | None = None) -> PartitionList:
        """Return what the first address holds, and where every partition is as far as it knows."""
        reply = self._ask_first(
            lambda node: node.operators.ListPartitions, operator_pb2.ListPartitionsRequest(), timeout_s
        )
        held = [
            PartitionInfo(
                partition=one.partition,
                role=operator_pb2.Role.Name(one.role).removeprefix("ROLE_").lower(),
                state=one.state,
                reason=one.reason,
                applied_offset=one.applied_offset,
                lag_records=one.lag_records,
                events=one.events,
                fingerprint=one.fingerprint,
            )
            for one in reply.held
        ]
        placed = [PartitionPlace(one.partition, one.owner, tuple(one.standbys)) for one in reply.placed]
        return PartitionList(reply.address, held, placed)

    def list_fingerprints(self, partition: int, *, timeout_s: float | None = None) -> list[tuple[int, int]]:
        """Return (offset, fingerprint of everything below it) of a partition that the first address holds."""
        request = operator_pb2.ListFingerprintsRequest(partition=partition)
        reply = self._ask_first(lambda node: node.operators.ListFingerprints, request, timeout_s)
        return [(one.offset, int(one.fingerprint, 16)) for one in reply.fingerprints]

    def _ask_first(
        self,
        method: Callable[[_Node], "grpc.UnaryUnaryMultiCallable[Any, Reply]"],
        request: Message,
        timeout_s: float | None,
    ) -> Reply:
        limit_s = self.timeout_s if timeout_s is None else timeout_s
        return self._node(self._given[0]).ask(method, request, limit_s)[0]

    def _call(
        self,
        user_id: str,
        method: Callable[[_Node], "grpc.UnaryUnaryMultiCallable[Any, _UserReply]"],
        request: Message,
        timeout_s: float | None,
    ) -> _UserReply:
        limit_s = self.timeout_s if timeout_s is None else timeout_s
        deadline = time.monotonic() + limit_s
        address = self._first_for(user_id)
        if not self.retry:
            return self._node(address).ask(method, request, limit_s)[0]
        asked: set[str] = set()
        refusal: LifelineError | None = None

        def pause_s(state: RetryCallState) -> float:
            # Another node may have the user now; only when all have been asked is it time that has to pass.
            if asked:
                return 0.0
            error = state.outcome.exception() if state.outcome else None
            told_s = error.retry_after_s if isinstance(error, LifelineError) else 0.0
            # Not all at the same moment.
            return _backoff(state) + told_s * random.uniform(0.8, 1.2)  # noqa: S311

        for attempt in Retrying(
            retry=retry_if_exception(lambda error: isinstance(error, LifelineError) and error.may_pass),
            wait=pause_s,
            stop=stop_before_delay(limit_s),
            reraise=True,
        ):
            with attempt:
                left_s = max(0.0, deadline - time.monotonic())
                try:
                    reply, told = self._node(address).ask(method, request, left_s, attempt.retry_state.attempt_number)
                except LifelineError as error:
                    if error.reason:
                        refusal = error
                    elif refusal is not None and error.code is grpc.StatusCode.DEADLINE_EXCEEDED:
                        # Time ran out in the last attempt; what a node has said before tells why.
                        raise refusal from error
                    address = self._next_after(address, user_id, error, asked)
                    raise
                self._places.learn(user_id, told.get(OWNER) or address, told.get(PARTITIONS, ""))
                return reply
        raise AssertionError("the loop returns or raises")

    def _first_for(self, user_id: str) -> str:
        """Return the address to ask first: the owner's, if it is known and can be reached."""
        known = self._places.address_for(user_id)
        if known in self._given:
            return known
        if known is not None and self._may_follow(known):
            # An address that was only told of may not be reachable from here: a call is worth no try.
            node = self._node(known)
            node.watch()
            if node.connected:
                return known
        return random.choice(self._given)  # noqa: S311 - spreads load

    def _next_after(self, address: str, user_id: str, error: LifelineError, asked: set[str]) -> str:
        """Return whom to ask after a failure; `asked` is emptied once nobody is left who was not asked."""
        asked.add(address)
        if error.reason == "NOT_OWNER":
            told = error.metadata.get("owner", "")
            owner = told if told in self._given or self._may_follow(told) else ""
            self._places.learn(user_id, owner, error.metadata.get("partitions", ""))
            if owner and owner not in asked:
                return owner
        start = self._given.index(address) + 1 if address in self._given else 0
        ring = self._given[start:] + self._given[:start]
        left = [each for each in ring if each not in asked]
        if not left:
            asked.clear()
        return left[0] if left else ring[0]

    def _may_follow(self, address: str) -> bool:
        """Say whether to call at an address that a node has told."""
        return self.follow and (self.security.token is None or self.security.trusts(address))

    def _node(self, address: str) -> _Node:
        with self._lock:
            if not self._nodes:
                raise ValueError("the client is closed: make another one")
            if address not in self._nodes:
                self._nodes[address] = _Node(address, self.security)
            return self._nodes[address]


def _error(error: grpc.Call, address: str, attempts: int, *, secure: bool) -> LifelineError:
    """Turn a failed call into a LifelineError, with the node's ErrorInfo where there is one."""
    code, message = error.code(), error.details() or ""
    status = rpc_status.from_call(error)
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    for detail in status.details if status else ():
        detail.Unpack(info)
        detail.Unpack(retry)
    if info.reason:
        after_s = retry.retry_delay.ToTimedelta().total_seconds()
        return LifelineError(code, info.reason, message, info.metadata, attempts, after_s)
    match code:
        case grpc.StatusCode.UNAVAILABLE:
            for sign, (reason, advice) in _TLS_PROBLEMS.items():
                if sign in message:
                    return LifelineError(code, reason, f"{address} {advice} ({message})", {}, attempts)
            if _CLOSED in message:
                hint = (
                    "it may ask for a certificate: set security.client_certificate"
                    if secure
                    else "it may speak TLS: set security.ca, or security.tls"
                )
                message = f"{message}; {hint}"
            message = f"no node answers at {address} ({message}): start one there, or give another address"
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            message = f"{address} did not answer in time: retry, or give the call a longer timeout_s"
    return LifelineError(code, "", message, {}, attempts)


def _unpack(part: sequence_pb2.Sequence, columns: Column) -> EventSequence:
    """View a reply's packed columns as arrays; a column that was not asked for is None."""

    def column(which: Column, packed: bytes, dtype: str) -> NDArray[Any] | None:
        if which not in columns:
            return None
        width = EMBEDDING_DIM if which is Column.EMBEDDING else np.dtype(dtype).itemsize
        if len(packed) != part.length * width:
            raise LifelineError(
                grpc.StatusCode.DATA_LOSS,
                "",
                f"column {which.name} has {len(packed)} bytes for {part.length} events: use a client of the "
                "node's own version",
                {},
            )
        return np.frombuffer(packed, dtype)

    embedding = column(Column.EMBEDDING, part.embedding, "i1")
    return EventSequence(
        length=part.length,
        stored=part.stored,
        timestamp_ms=column(Column.TIMESTAMP_MS, part.timestamp_ms, "<i8"),
        item_id=column(Column.ITEM_ID, part.item_id, "<u8"),
        action_type=column(Column.ACTION_TYPE, part.action_type, "u1"),
        surface=column(Column.SURFACE, part.surface, "u1"),
        embedding=None if embedding is None else embedding.reshape(part.length, EMBEDDING_DIM),
    )


def _token(token: score_pb2.SelectedToken) -> SelectedToken:
    return SelectedToken(
        source=TokenSource(token.source),
        item_id=token.item_id,
        timestamp_ms=token.timestamp_ms,
        action_types=tuple(token.action_types),
        surface=token.surface,
        similarity=token.similarity,
        age_ms=token.age_ms,
        contribution=token.contribution if token.HasField("contribution") else None,
    )


def _as_of(as_of: sequence_pb2.AsOf) -> AsOf:
    return AsOf(as_of.partition, as_of.applied_offset, as_of.watermark_ms, as_of.lag_records)


def _embeddings(item_id: NDArray[np.uint64], given: Mapping[int, NDArray[np.int8]]) -> bytes:
    """Return int8[c, 32] as it goes over the wire: zeros for candidates of which none is given."""
    rows = np.zeros((len(item_id), EMBEDDING_DIM), np.int8)
    for row, item in enumerate(item_id.tolist()):
        own = given.get(item)
        if own is None:
            continue
        if own.dtype != np.int8 or own.shape != (EMBEDDING_DIM,):
            raise ValueError(f"the embedding of item {item} is {own.dtype}{own.shape}: give int8[{EMBEDDING_DIM}]")
        rows[row] = own
    return rows.tobytes()
