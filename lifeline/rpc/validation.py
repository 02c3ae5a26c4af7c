"""Shared by the services: checks of request fields and deadlines, and the wait for `min_offset`."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

import grpc

from lifeline.core.reasons import Reason
from lifeline.core.sequence import AsOf
from lifeline.core.user_ids import InvalidUserIdError, encode_user_id
from lifeline.rpc.directory import PartitionDirectory
from lifeline.rpc.status import Refusal, abort
from lifeline.rpc.waits import resume
from lifeline.store.errors import NotOwnerError, NotYetAppliedError, StoreError
from lifeline.store.reader import SequenceReader
from lifeline.v1 import sequence_pb2

MAX_AHEAD = 1 << 20
"""How far a min_offset may lie beyond the last known offset, which may lag behind an acknowledgement."""
_POLL_S = 0.25
_DEADLINE_MARGIN_S = 0.02
_RESUME_S = 1.0
_NO_DEADLINE_S = 366 * 86_400.0


@contextmanager
def abort_on_refusal(context: grpc.ServicerContext) -> Iterator[None]:
    """Convert a Refusal or StoreError raised inside into a status with ErrorInfo."""
    try:
        yield
    except Refusal as refusal:
        abort(context, refusal)
    except StoreError as error:
        abort(context, Refusal.of(error))


def invalid_field(field: str, message: str, reason: Reason = Reason.FIELD_INVALID, **metadata: str) -> Refusal:
    """Return the refusal of a request for an invalid field."""
    return Refusal(grpc.StatusCode.INVALID_ARGUMENT, reason, f"{field}: {message}", field=field, **metadata)


def check_user_id(user_id: str) -> None:
    """Raise Refusal for an invalid user id."""
    try:
        encode_user_id(user_id)
    except InvalidUserIdError as error:
        raise invalid_field("user_id", str(error), Reason.USER_ID_INVALID) from error


def reader_at(
    directory: PartitionDirectory, user_id: str, min_offset: int | None, context: grpc.ServicerContext
) -> SequenceReader:
    """Return the reader of the user's partition; waits until it has applied `min_offset`, if set.

    The call's deadline bounds the wait. Raises Refusal, NotOwnerError, NotYetAppliedError.
    """
    reader = directory.for_user(user_id)
    if min_offset is not None:
        _check_offset(reader, min_offset)
        if reader.store.applied_offset < min_offset:
            _wait_for(reader, min_offset, directory, context)
    check_deadline(context)
    return reader


def _check_offset(reader: SequenceReader, offset: int) -> None:
    """Raise Refusal for a negative offset, and for one far beyond the log."""
    if offset < 0:
        raise invalid_field("min_offset", f"it is {offset}: send the offset of an acknowledged record, 0 or more")
    known, partition = reader.known_offset, reader.store.partition
    if offset > known + MAX_AHEAD:
        raise Refusal(
            grpc.StatusCode.OUT_OF_RANGE,
            Reason.OFFSET_BEYOND_LOG,
            f"min_offset: it is {offset}, and the last known offset of partition {partition} is {known}: send the "
            "offset that was acknowledged for a record of this user",
            field="min_offset",
            partition=str(partition),
            known_offset=str(known),
            limit=str(known + MAX_AHEAD),
        )


def _wait_for(
    reader: SequenceReader, offset: int, directory: PartitionDirectory, context: grpc.ServicerContext
) -> None:
    """Wait in a place for waiting calls until `offset` is applied, will not be, or until the caller disconnects.

    The wait ends shortly before the deadline, so that the caller receives the reason and not just a timeout. It ends
    with NotOwnerError once this node has given the partition away: its store applies nothing more then.
    """
    waits, remaining_s = directory.waits, time_left(context)
    end = time.monotonic() + min(waits.max_wait_s, remaining_s - min(remaining_s / 10, _DEADLINE_MARGIN_S))
    reader.check_applies(offset)
    with waits.place(context):
        while True:
            poll_s = min(_POLL_S, end - time.monotonic())
            try:
                reader.store.wait_for(offset, poll_s)
            except NotYetAppliedError:
                reader.check_applies(offset)
                check_active(context)
                if not directory.has(reader.store.partition):
                    raise NotOwnerError(reader.store.partition) from None
                if poll_s < _POLL_S:
                    raise
            else:
                break
        resume(max(0.0, min(_RESUME_S, end - time.monotonic())))


def time_left(context: grpc.ServicerContext) -> float:
    """Return the seconds until the call's deadline; infinity if it has none."""
    remaining: float | None = context.time_remaining()
    # For a call without a deadline gRPC reports a time in the far future.
    return math.inf if remaining is None or remaining > _NO_DEADLINE_S else max(0.0, remaining)


def check_deadline(context: grpc.ServicerContext) -> None:
    """Raise Refusal if the deadline has passed or the caller has disconnected."""
    check_active(context)
    if time_left(context) <= 0:
        raise Refusal(
            grpc.StatusCode.DEADLINE_EXCEEDED,
            Reason.DEADLINE_PASSED,
            "the call's deadline passed before the node could start: retry with a longer deadline",
        )


def check_active(context: grpc.ServicerContext) -> None:
    """Raise Refusal if the caller has cancelled the call or disconnected."""
    if not context.is_active():
        raise Refusal(
            grpc.StatusCode.CANCELLED, Reason.DEADLINE_PASSED, "the caller cancelled the call or disconnected"
        )


def as_of_message(as_of: AsOf) -> sequence_pb2.AsOf:
    """Return the message of `as_of`."""
    return sequence_pb2.AsOf(
        partition=as_of.partition,
        applied_offset=as_of.applied_offset,
        watermark_ms=as_of.watermark_ms,
        lag_records=as_of.lag_records,
    )
