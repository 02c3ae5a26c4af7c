"""The gRPC service that returns a user's sequences as packed columns."""

import time

import grpc
import numpy as np
from numpy.typing import NDArray

from lifeline.core.actions import Kind
from lifeline.core.reasons import Reason
from lifeline.core.sequence import Column, Sequence, SequenceQuery
from lifeline.core.time_units import DAY_MS, mistaken_unit
from lifeline.core.wire import COLUMNS, KINDS, WIRE_KINDS
from lifeline.rpc.directory import PartitionDirectory
from lifeline.rpc.status import Refusal
from lifeline.rpc.validation import abort_on_refusal, as_of_message, check_user_id, invalid_field, reader_at
from lifeline.v1 import sequence_pb2, sequence_pb2_grpc

SERVICE = sequence_pb2.DESCRIPTOR.services_by_name["SequenceService"].full_name

_YEAR_1980_MS = 315_532_800_000


class SequenceService(sequence_pb2_grpc.SequenceServiceServicer):
    """Serves the partitions of a directory."""

    def __init__(self, directory: PartitionDirectory, *, max_reply_bytes: int) -> None:
        """Refuse replies larger than `max_reply_bytes`."""
        self._directory, self._max_reply_bytes = directory, max_reply_bytes

    def GetSequence(  # noqa: N802 - the name of the method on the wire
        self, request: sequence_pb2.GetSequenceRequest, context: grpc.ServicerContext
    ) -> sequence_pb2.GetSequenceResponse:
        """Implement GetSequence, as sequence.proto defines it."""
        with abort_on_refusal(context):
            check_user_id(request.user_id)
            query = parse_query(request)
            min_offset = request.min_offset if request.HasField("min_offset") else None
            reader = reader_at(self._directory, request.user_id, min_offset, context)
            as_of, sequences = reader.read(request.user_id, query)
            reply = sequence_pb2.GetSequenceResponse(
                sequences=[pack_sequence(kind, sequences[kind]) for kind in query.kinds],
                as_of=as_of_message(as_of),
            )
            size = reply.ByteSize()
            if size > self._max_reply_bytes:
                raise Refusal(
                    grpc.StatusCode.RESOURCE_EXHAUSTED,
                    Reason.REPLY_TOO_LARGE,
                    f"the reply has {size} bytes, and the limit is {self._max_reply_bytes}: request fewer events "
                    "(newest) or fewer columns",
                    bytes=str(size),
                    limit=str(self._max_reply_bytes),
                )
            return reply


def parse_query(request: sequence_pb2.GetSequenceRequest) -> SequenceQuery:
    """Return the query of a request; raises Refusal if a field is invalid."""
    kinds = []
    for kind in request.kinds or [sequence_pb2.KIND_EXPLICIT]:
        if kind == sequence_pb2.KIND_UNSPECIFIED:
            kind = sequence_pb2.KIND_EXPLICIT  # noqa: PLW2901 - the enum defines it so
        if kind not in KINDS:
            raise invalid_field("kinds", f"{kind} is not a Kind: use KIND_EXPLICIT or KIND_IMPRESSION")
        kinds.append(KINDS[kind])
    if len(set(kinds)) != len(kinds):
        raise invalid_field("kinds", "a kind is listed twice: list each once")
    columns = Column(0)
    for column in request.columns:
        if column not in COLUMNS:
            raise invalid_field("columns", f"{column} is not a Column: use a value of the enum other than 0")
        columns |= COLUMNS[column]
    for value in request.action_types:
        if not 1 <= value <= 64:
            raise invalid_field("action_types", f"{value} is not an action type: they are 1 to 64")
    since = request.from_timestamp_ms if request.HasField("from_timestamp_ms") else None
    until = request.to_timestamp_ms if request.HasField("to_timestamp_ms") else None
    if since is not None and until is not None and since > until:
        raise invalid_field("from_timestamp_ms", f"{since} is after to_timestamp_ms {until}: swap them")
    latest_ms = int(time.time() * 1000) + DAY_MS
    for field, time_ms in (("from_timestamp_ms", since), ("to_timestamp_ms", until)):
        # A time after the last event is a usual way to say "all", so only numbers that are too small are suspect.
        if time_ms is None or time_ms >= _YEAR_1980_MS:
            continue
        unit = mistaken_unit(time_ms, _YEAR_1980_MS, latest_ms)
        if unit is not None:
            raise invalid_field(
                field, f"{time_ms} is a time of {unit} since 1970, and not of milliseconds: give it in milliseconds"
            )
    return SequenceQuery(
        kinds=tuple(kinds),
        newest=request.newest or None,
        from_timestamp_ms=since,
        to_timestamp_ms=until,
        action_types=frozenset(request.action_types),
        columns=columns or Column.EVENT,
    )


def pack_sequence(kind: Kind, sequence: Sequence) -> sequence_pb2.Sequence:
    """Return the message of one sequence: each column as little-endian bytes."""
    return sequence_pb2.Sequence(
        kind=WIRE_KINDS[kind],
        length=sequence.length,
        stored=sequence.stored,
        timestamp_ms=_bytes(sequence.timestamp_ms),
        item_id=_bytes(sequence.item_id),
        action_type=_bytes(sequence.action_type),
        surface=_bytes(sequence.surface),
        embedding=_bytes(sequence.embedding),
    )


def _bytes(column: NDArray[np.generic] | None) -> bytes:
    return b"" if column is None else column.astype(column.dtype.newbyteorder("<"), copy=False).tobytes()
