"""What calls return, and the conversion from messages to it."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from lifeline.client.errors import mismatched_reply
from lifeline.core.sequence import EMBEDDING_DIM, AsOf, Column, UserSequences
from lifeline.core.sequence import Sequence as EventSequence
from lifeline.core.wire import KINDS
from lifeline.v1 import model_pb2, operator_pb2, score_pb2, sequence_pb2


class TokenSource(IntEnum):
    """Which part of the history a selected token comes from."""

    LIFELONG = score_pb2.TOKEN_SOURCE_LIFELONG
    RECENT = score_pb2.TOKEN_SOURCE_RECENT
    REAL_TIME = score_pb2.TOKEN_SOURCE_REAL_TIME
    IMPRESSION = score_pb2.TOKEN_SOURCE_IMPRESSION


class SelectedToken(NamedTuple):
    """A token that the encoder read for a candidate."""

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
    """The candidate's score less its score without this token; None where contributions were not requested."""

    @classmethod
    def of(cls, token: score_pb2.SelectedToken) -> Self:
        """Convert the message."""
        return cls(
            source=TokenSource(token.source),
            item_id=token.item_id,
            timestamp_ms=token.timestamp_ms,
            action_types=tuple(token.action_types),
            surface=token.surface,
            similarity=token.similarity,
            age_ms=token.age_ms,
            contribution=token.contribution if token.HasField("contribution") else None,
        )


@dataclass(frozen=True, slots=True)
class Scores:
    """The scores of c candidates over h heads, in the order of the request.

    item_id uint64[c], score float32[c], probability float32[c, h], embedding_known bool[c]. `selected` holds each
    candidate's tokens where an explanation was requested, else an empty tuple for each candidate.
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

    @property
    def version(self) -> tuple[str, str]:
        """The model and its version."""
        return self.model, self.model_version

    @classmethod
    def of(cls, reply: score_pb2.ScoreResponse, item_id: NDArray[np.uint64]) -> Self:
        """Convert the message for the requested uint64[c]; raises LifelineError where the two do not fit."""
        heads = tuple(reply.heads)
        score = np.array(reply.score, np.float32)
        if not len(score) == len(item_id) == len(reply.embedding_known):
            raise mismatched_reply(f"{len(score)} scores came for {len(item_id)} candidates")
        selected = tuple(
            tuple(SelectedToken.of(token) for token in explanation.selected) for explanation in reply.explanations
        )
        return cls(
            heads=heads,
            item_id=item_id,
            score=score,
            probability=np.array(reply.probability, np.float32).reshape(len(score), len(heads)),
            embedding_known=np.array(reply.embedding_known, np.bool_),
            selected=selected or ((),) * len(score),
            as_of=_as_of(reply.as_of),
            model=reply.model.name,
            model_version=reply.model.version,
        )


class PartitionSnapshot(NamedTuple):
    """A snapshot of one partition."""

    partition: int
    id: str
    applied_offset: int
    """The last offset that the snapshot includes."""
    events: int
    fingerprint: str
    """32 hexadecimal digits."""
    files: int
    total_bytes: int
    uploaded_files: int
    """Files that the repository did not have yet."""
    uploaded_bytes: int
    seconds: float

    @classmethod
    def of(cls, snapshot: operator_pb2.PartitionSnapshot) -> Self:
        """Convert the message."""
        return cls(
            partition=snapshot.partition,
            id=snapshot.snapshot_id,
            applied_offset=snapshot.applied_offset,
            events=snapshot.events,
            fingerprint=snapshot.fingerprint,
            files=snapshot.files,
            total_bytes=snapshot.total_bytes,
            uploaded_files=snapshot.uploaded_files,
            uploaded_bytes=snapshot.uploaded_bytes,
            seconds=snapshot.seconds,
        )


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

    @classmethod
    def of(cls, held: operator_pb2.HeldPartition) -> Self:
        """Convert the message."""
        return cls(
            partition=held.partition,
            role=operator_pb2.Role.Name(held.role).removeprefix("ROLE_").lower(),
            state=held.state,
            reason=held.reason,
            applied_offset=held.applied_offset,
            lag_records=held.lag_records,
            events=held.events,
            fingerprint=held.fingerprint,
        )


class PartitionPlace(NamedTuple):
    """The addresses of a partition's owner and standbys."""

    partition: int
    owner: str
    standbys: tuple[str, ...]


class PartitionList(NamedTuple):
    """What a node reports of itself and of its group."""

    address: str
    held: Sequence[PartitionInfo]
    """Ascending by partition."""
    placed: Sequence[PartitionPlace]
    """Every partition of the topic, ascending; empty before the first assignment."""

    @classmethod
    def of(cls, reply: operator_pb2.ListPartitionsResponse) -> Self:
        """Convert the message."""
        placed = [PartitionPlace(place.partition, place.owner, tuple(place.standbys)) for place in reply.placed]
        return cls(reply.address, [PartitionInfo.of(held) for held in reply.held], placed)


class ModelInfo(NamedTuple):
    """The model with which a node scores."""

    name: str
    """Empty before the first model is installed, and so is the version."""
    version: str
    kernels: str
    """The implementation of the encoder: torch, avx2, avx512 or bf16."""
    versions: tuple[str, ...]
    """The versions in the node's directory, oldest first."""

    @classmethod
    def of(cls, reply: model_pb2.GetModelResponse) -> Self:
        """Convert the message."""
        return cls(reply.model.name, reply.model.version, reply.kernels, tuple(reply.versions))


def unpack_sequences(reply: sequence_pb2.GetSequenceResponse, columns: Column) -> UserSequences:
    """View a reply's packed columns as arrays; columns that were not requested are None. Raises LifelineError."""
    return UserSequences(_as_of(reply.as_of), {KINDS[part.kind]: _unpack(part, columns) for part in reply.sequences})


def _unpack(part: sequence_pb2.Sequence, columns: Column) -> EventSequence:
    def column(which: Column, packed: bytes, dtype: str) -> NDArray[Any] | None:
        if which not in columns:
            return None
        width = EMBEDDING_DIM if which is Column.EMBEDDING else np.dtype(dtype).itemsize
        if len(packed) != part.length * width:
            raise mismatched_reply(f"column {which.name} has {len(packed)} bytes for {part.length} events")
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


def _as_of(as_of: sequence_pb2.AsOf) -> AsOf:
    return AsOf(as_of.partition, as_of.applied_offset, as_of.watermark_ms, as_of.lag_records)
