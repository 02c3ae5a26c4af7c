"""What both services check in a request, and how they wait and refuse."""

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
from lifeline.rpc.waits import Waits, resume
from lifeline.store.errors import NotYetAppliedError, StoreError
from lifeline.store.readable_partition import ReadablePartition
from lifeline.store.reader import SequenceReader
from lifeline.v1 import sequence_pb2

MAX_AHEAD = 1 << 20
"""A min_offset lies no farther beyond what is known of the log: that may be a little behind an acknowledgement."""
_LOOK_S = 0.25
_MARGIN_S = 0.02
_RESUME_S = 1.0
_NO_DEADLINE_S = 366 * 86_400.0


@contextmanager
def abort_on_refusal(context: grpc.ServicerContext) -> Iterator[None]:
    """Turn what is raised inside into a status with ErrorInfo."""
    try:
        yield
    except Refusal as refusal:
        abort(context, refusal)
    except StoreError as error:
        abort(context, Refusal.of(error))


def invalid_field(field: str, message: str, reason: Reason = Reason.FIELD_INVALID, **metadata: str) -> Refusal:
    """Return the refusal of one field."""
    return Refusal(grpc.StatusCode.INVALID_ARGUMENT, reason, f"{field}: {message}", field=field, **metadata)


def check_user_id(user_id: str) -> None:
    """Refuse a user id that no record can have."""
    try:
        encode_user_id(user_id)
    except InvalidUserIdError as error:
        raise invalid_field("user_id", str(error), Reason.USER_ID_INVALID) from error


def reader_at(
    directory: PartitionDirectory, user_id: str, min_offset: int | None, context: grpc.ServicerContext
) -> SequenceReader:
    """Return the reader of the user's partition once that has applied `min_offset`, within the call's deadline.

    Raises Refusal, NotOwnerError, NotYetAppliedError.
    """
    reader = directory.for_user(user_id)
    if min_offset is not None:
        _check_offset(reader, min_offset)
        if reader.store.applied_offset < min_offset:
            _wait_for(reader.store, min_offset, directory.waits, context)
    check_deadline(context)
    return reader


def _check_offset(reader: SequenceReader, offset: int) -> None:
    """Refuse an offset that no record has, or that none will have soon."""
    if offset < 0:
        raise invalid_field("min_offset", f"it is {offset}: give the offset of an acknowledged record, 0 or more")
    known, partition = reader.known_offset, reader.store.partition
    if offset > known + MAX_AHEAD:
        raise Refusal(
            grpc.StatusCode.OUT_OF_RANGE,
            Reason.OFFSET_BEYOND_LOG,
            f"min_offset: it is {offset}, and the last known offset of partition {partition} is {known}: give the "
            "offset that was acknowledged for a record of this user",
            field="min_offset",
            partition=str(partition),
            known_offset=str(known),
            limit=str(known + MAX_AHEAD),
        )


def _wait_for(store: ReadablePartition, offset: int, waits: Waits, context: grpc.ServicerContext) -> None:
    """Wait in a place of `waits` until `offset` is applied, for as long as anybody waits for the answer.

    It ends a little before the deadline, so that the caller hears why and not just that time is up.
    """
    left = time_left(context)
    end = time.monotonic() + min(waits.max_wait_s, left - min(left / 10, _MARGIN_S))
    with waits.place(context):
        while True:
            slice_s = min(_LOOK_S, end - time.monotonic())
            try:
                store.wait_for(offset, slice_s)
            except NotYetAppliedError:
                check_active(context)
                if slice_s < _LOOK_S:
                    raise
            else:
                break
        resume(max(0.0, min(_RESUME_S, end - time.monotonic())))


def time_left(context: grpc.ServicerContext) -> float:
    """Return the seconds until the call's deadline; infinite where it has none."""
    remaining: float | None = context.time_remaining()
    # gRPC gives a call without a deadline the end of its calendar as one.
    return math.inf if remaining is None or remaining > _NO_DEADLINE_S else max(0.0, remaining)


def check_deadline(context: grpc.ServicerContext) -> None:
    """Refuse to do work that nobody waits for any more."""
    check_active(context)
    if time_left(context) <= 0:
        raise Refusal(
            grpc.StatusCode.DEADLINE_EXCEEDED,
            Reason.DEADLINE_PASSED,
            "the call's deadline passed before it was worked on: retry with a longer deadline",
        )


def check_active(context: grpc.ServicerContext) -> None:
    """Refuse to go on for a caller that has gone."""
    if not context.is_active():
        raise Refusal(grpc.StatusCode.CANCELLED, Reason.DEADLINE_PASSED, "the caller has gone: nothing to do")


def as_of_message(as_of: AsOf) -> sequence_pb2.AsOf:
    """Return `as_of` as it goes over the wire."""
    return sequence_pb2.AsOf(
        partition=as_of.partition,
        applied_offset=as_of.applied_offset,
        watermark_ms=as_of.watermark_ms,
        lag_records=as_of.lag_records,
    )
