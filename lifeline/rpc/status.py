"""Refusals: gRPC errors with a status code, a reason from a closed list, and a message that says what to do."""

from typing import NoReturn, Self

import grpc
from google.protobuf import duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from lifeline.core.reasons import Reason
from lifeline.store.errors import (
    CatchingUpError,
    CorruptRecordError,
    FormatVersionError,
    NotOwnerError,
    NotYetAppliedError,
    PartitionRefusingError,
    SnapshotError,
    StoreError,
)

DOMAIN = "lifeline"

_OF_PARTITION = {
    NotOwnerError: (grpc.StatusCode.UNAVAILABLE, Reason.NOT_OWNER),
    CatchingUpError: (grpc.StatusCode.UNAVAILABLE, Reason.CATCHING_UP),
    PartitionRefusingError: (grpc.StatusCode.FAILED_PRECONDITION, Reason.NOT_SERVING),
}


class Refusal(Exception):  # noqa: N818 - a reply to the caller, not a bug
    """Raised in a service; `abort` converts it to a status with ErrorInfo, and RetryInfo if it has a retry delay."""

    def __init__(self, code: grpc.StatusCode, reason: Reason, message: str, **metadata: str) -> None:
        super().__init__(message)
        self.code, self.reason, self.message, self.metadata = code, reason, message, metadata
        self.retry_after_s: float | None = None

    def with_retry_delay(self, retry_after_s: float) -> Self:
        """Set the delay in seconds after which the caller should retry; return self."""
        self.retry_after_s = retry_after_s
        return self

    @classmethod
    def of(cls, error: StoreError) -> "Refusal":
        """Return the refusal for an error of the store."""
        match error:
            case NotOwnerError() | CatchingUpError() | PartitionRefusingError():
                code, reason = _OF_PARTITION[type(error)]
                return cls(code, reason, str(error), partition=str(error.partition))
            case NotYetAppliedError():
                return cls(
                    grpc.StatusCode.FAILED_PRECONDITION if error.blocked else grpc.StatusCode.DEADLINE_EXCEEDED,
                    Reason.OFFSET_NOT_REACHED,
                    str(error),
                    partition=str(error.partition),
                    applied_offset=str(error.applied),
                )
            case CorruptRecordError() | FormatVersionError():
                return cls(grpc.StatusCode.DATA_LOSS, Reason.STATE_CORRUPT, str(error))
            case SnapshotError():
                return cls(grpc.StatusCode.UNAVAILABLE, Reason.SNAPSHOT_FAILED, str(error))
            case _:
                return cls(grpc.StatusCode.UNAVAILABLE, Reason.STORE_FAILED, str(error))


def abort(context: grpc.ServicerContext, refusal: Refusal) -> NoReturn:
    """End the call with the refusal's code and message; the status details have ErrorInfo, and RetryInfo if set."""
    details: list[Message] = [
        error_details_pb2.ErrorInfo(reason=refusal.reason.value, domain=DOMAIN, metadata=refusal.metadata)
    ]
    if refusal.retry_after_s is not None:
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(round(refusal.retry_after_s * 1e9))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    status = status_pb2.Status(code=refusal.code.value[0], message=refusal.message)
    for detail in details:
        status.details.add().Pack(detail)
    context.abort_with_status(rpc_status.to_status(status))
    raise AssertionError("abort_with_status does not return")
