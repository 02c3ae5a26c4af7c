from typing import cast

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from lifeline.core.reasons import Reason
from lifeline.rpc.status import DOMAIN, Refusal, abort
from lifeline.rpc.validation import abort_on_refusal
from lifeline.store.errors import (
    CatchingUpError,
    CorruptRecordError,
    FormatVersionError,
    NotOwnerError,
    NotYetAppliedError,
    PartitionRefusingError,
    StoreError,
    StoreFailedError,
    StoreLockedError,
)
from lifeline.v1 import sequence_pb2, sequence_pb2_grpc
from tests.support.sequence_server import refused, served

REQUEST = sequence_pb2.GetSequenceRequest(user_id="ann")
Code = grpc.StatusCode


class Raises(sequence_pb2_grpc.SequenceServiceServicer):
    """Answers every call with one error."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def GetSequence(  # noqa: N802
        self, request: sequence_pb2.GetSequenceRequest, context: grpc.ServicerContext
    ) -> sequence_pb2.GetSequenceResponse:
        del request
        with abort_on_refusal(context):
            raise self.error
        raise AssertionError


@pytest.mark.parametrize(
    ("error", "code", "reason", "metadata"),
    [
        (NotOwnerError(7), Code.UNAVAILABLE, Reason.NOT_OWNER, {"partition": "7"}),
        (CatchingUpError(7), Code.UNAVAILABLE, Reason.CATCHING_UP, {"partition": "7"}),
        (
            NotYetAppliedError(7, 12, 9),
            Code.DEADLINE_EXCEEDED,
            Reason.OFFSET_NOT_REACHED,
            {"partition": "7", "applied_offset": "9"},
        ),
        (CorruptRecordError("a chunk", partition=7, user="ann"), Code.DATA_LOSS, Reason.STATE_CORRUPT, {}),
        (FormatVersionError("a head", 2, 1), Code.DATA_LOSS, Reason.STATE_CORRUPT, {}),
        (
            PartitionRefusingError(7, "restore a snapshot"),
            Code.FAILED_PRECONDITION,
            Reason.NOT_SERVING,
            {"partition": "7"},
        ),
        (StoreFailedError("failed: restart the node"), Code.UNAVAILABLE, Reason.STORE_FAILED, {}),
        (StoreLockedError("locked: stop that node"), Code.UNAVAILABLE, Reason.STORE_FAILED, {}),
        (StoreError("anything else: do this"), Code.UNAVAILABLE, Reason.STORE_FAILED, {}),
        (
            Refusal(Code.INVALID_ARGUMENT, Reason.FIELD_INVALID, "Größe: gib eine", field="größe"),
            Code.INVALID_ARGUMENT,
            Reason.FIELD_INVALID,
            {"field": "größe"},
        ),
        (Refusal(Code.RESOURCE_EXHAUSTED, Reason.OVERLOADED, "retry"), Code.RESOURCE_EXHAUSTED, Reason.OVERLOADED, {}),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_an_error_reaches_the_caller_with_code_reason_and_advice(
    error: Exception, code: grpc.StatusCode, reason: Reason, metadata: dict[str, str]
) -> None:
    with served(Raises(error)) as stub:
        found = refused(stub, REQUEST)
    assert found == (code, str(error), reason.value, DOMAIN, metadata)


def test_reasons_are_names_that_error_info_allows() -> None:
    for reason in Reason:
        assert reason.value == reason.name
        assert len(reason.value) <= 63
        assert reason.value.replace("_", "").isalnum()
        assert reason.value.isupper()
    assert DOMAIN == "lifeline"


def test_aborting_never_returns() -> None:
    class Deaf:
        def abort_with_status(self, status: object) -> None:
            del status

    with pytest.raises(AssertionError, match="does not return"):
        abort(Deaf(), Refusal(Code.ABORTED, Reason.INTERNAL, "try again"))  # type: ignore[arg-type]


def test_when_to_try_again_is_told_beside_the_reason() -> None:
    refusal = Refusal(Code.RESOURCE_EXHAUSTED, Reason.OVERLOADED, "retry").with_retry_delay(0.25)
    with served(Raises(refusal)) as stub, pytest.raises(grpc.RpcError) as caught:
        stub.GetSequence(REQUEST)
    status = rpc_status.from_call(cast("grpc.Call", caught.value))
    assert status is not None
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    assert status.details[0].Unpack(info)
    assert status.details[1].Unpack(retry)
    assert (info.reason, retry.retry_delay.ToTimedelta().total_seconds()) == ("OVERLOADED", 0.25)
