"""The client library: a user's sequences and scores over gRPC, as NumPy columns.

    with LifelineClient("127.0.0.1:50051") as client:
        newest = client.get_sequence("user1", SequenceQuery(newest=10)).sequences[Kind.EXPLICIT]
        ranked = client.score("user1", [item_a, item_b]).score.argsort()[::-1]

It needs the bare package alone. One client serves any number of threads.
"""

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

from lifeline.v1 import operator_pb2, score_pb2, sequence_pb2
from lifeline.v1.operator_pb2_grpc import OperatorServiceStub
from lifeline.v1.score_pb2_grpc import ScoreServiceStub
from lifeline.v1.sequence_pb2_grpc import SequenceServiceStub
from store.sequence import EMBEDDING_DIM, AsOf, Column, SequenceQuery, UserSequences
from store.sequence import Sequence as EventSequence
from store.wire import KINDS, WIRE_COLUMNS, WIRE_KINDS

MAX_REPLY_BYTES = 256 << 20
SNAPSHOT_TIMEOUT_S = 3_600.0

Reply = TypeVar("Reply")


class LifelineError(Exception):
    """A call that did not succeed.

    `code` is the gRPC status, `reason` the node's own word for why (a `store.status.Reason`; empty when the
    answer came from no node, as when none can be reached), `metadata` what belongs to the reason.
    """

    def __init__(self, code: grpc.StatusCode, reason: str, message: str, metadata: Mapping[str, str]) -> None:
        self.code, self.reason, self.message, self.metadata = code, reason, message, dict(metadata)
        super().__init__(f"{code.name}{f' ({reason})' if reason else ''}: {message}")


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


@dataclass(slots=True)
class LifelineClient:
    """A connection to a node.

    `timeout_s` bounds every call that names no timeout of its own, a wait for `min_offset` included. Every
    call raises LifelineError when it does not succeed.
    """

    address: str
    timeout_s: float = 5.0
    credentials: grpc.ChannelCredentials | None = None
    _channel: grpc.Channel = field(init=False, repr=False)
    _sequences: SequenceServiceStub = field(init=False, repr=False)
    _scores: ScoreServiceStub = field(init=False, repr=False)
    _operators: OperatorServiceStub = field(init=False, repr=False)

    def __post_init__(self) -> None:
        options = [("grpc.max_receive_message_length", MAX_REPLY_BYTES)]
        self._channel = (
            grpc.secure_channel(self.address, self.credentials, options)
            if self.credentials
            else grpc.insecure_channel(self.address, options)
        )
        self._sequences = SequenceServiceStub(self._channel)
        self._scores = ScoreServiceStub(self._channel)
        self._operators = OperatorServiceStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; calls under way are cancelled."""
        self._channel.close()

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
        reply = self._call(self._sequences.GetSequence, request, timeout_s)
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
        explain: bool = False,
        timeout_s: float | None = None,
    ) -> Scores:
        """Return the candidates' scores on the user's history as it is now.

        `embeddings` gives int8[32] for items that the node's embedding table may lack; `timestamp_ms` is when the
        request is made, now when not given; `min_offset` as in `get_sequence`.
        """
        given = {item_id: _embedding(item_id, row) for item_id, row in (embeddings or {}).items()}
        request = score_pb2.ScoreRequest(
            user_id=user_id,
            candidates=[
                score_pb2.Candidate(item_id=item_id, embedding=given.get(item_id)) for item_id in map(int, candidates)
            ],
            context=score_pb2.ScoreContext(timestamp_ms=timestamp_ms, surface=surface),
            min_offset=min_offset,
            explain=explain,
        )
        reply = self._call(self._scores.Score, request, timeout_s)
        heads = tuple(reply.heads)
        return Scores(
            heads=heads,
            item_id=np.array([one.item_id for one in reply.scores], np.uint64),
            score=np.array([one.score for one in reply.scores], np.float32),
            probability=np.array([one.probabilities for one in reply.scores], np.float32).reshape(
                len(reply.scores), len(heads)
            ),
            embedding_known=np.array([one.embedding_known for one in reply.scores], np.bool_),
            selected=tuple(tuple(_token(token) for token in one.selected) for one in reply.scores),
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
        reply = self._call(self._operators.CreateSnapshot, request, timeout_s)
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

    def _call(self, method: Callable[..., Reply], request: Message, timeout_s: float | None) -> Reply:
        try:
            return method(request, timeout=self.timeout_s if timeout_s is None else timeout_s)
        except grpc.RpcError as error:
            raise _error(cast("grpc.Call", error), self.address) from error


def _error(error: grpc.Call, address: str) -> LifelineError:
    """Turn a failed call into a LifelineError, with the node's ErrorInfo where there is one."""
    code, message = error.code(), error.details() or ""
    status = rpc_status.from_call(error)
    for detail in status.details if status else ():
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            return LifelineError(code, info.reason, message, info.metadata)
    match code:
        case grpc.StatusCode.UNAVAILABLE:
            message = f"no node answers at {address} ({message}): start one there, or give another address"
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            message = f"{address} did not answer in time: retry, or give the call a longer timeout_s"
    return LifelineError(code, "", message, {})


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
    )


def _as_of(as_of: sequence_pb2.AsOf) -> AsOf:
    return AsOf(as_of.partition, as_of.applied_offset, as_of.watermark_ms)


def _embedding(item_id: int, row: NDArray[np.int8]) -> bytes:
    if row.dtype != np.int8 or row.shape != (EMBEDDING_DIM,):
        raise ValueError(f"the embedding of item {item_id} is {row.dtype}{row.shape}: give int8[{EMBEDDING_DIM}]")
    return row.tobytes()
