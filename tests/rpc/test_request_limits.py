"""Requests beyond the limits, over the wire, and the page that lists the limits."""

from collections.abc import Iterator
from pathlib import Path
from typing import cast

import grpc
import pytest

from lifeline.core.limits import BOUNDS, MessageLimits
from lifeline.core.security import SecuritySettings
from lifeline.rpc.request_limits import as_markdown, methods_of
from lifeline.rpc.server import ALL_SERVICES, SERVICES, NodeServer
from lifeline.v1 import sequence_pb2
from lifeline.v1.operator_pb2 import CreateSnapshotRequest
from lifeline.v1.sequence_pb2 import GetSequenceRequest
from tests.support.refusals import info_of
from tests.support.secure_servers import serving

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def server() -> Iterator[NodeServer]:
    with serving(SecuritySettings()) as (running, _):
        yield running


def refused(server: NodeServer, method: str, request: bytes) -> tuple[grpc.StatusCode, str, dict[str, str], str]:
    with grpc.insecure_channel(server.address) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(f"/lifeline.v1.{method}", None, None)(request, timeout=30)
    call, info = cast("grpc.Call", caught.value), info_of(caught.value)
    return call.code(), info.reason, dict(info.metadata), call.details() or ""


def test_a_field_that_holds_too_much_is_named_with_its_length_and_its_bound(server: NodeServer) -> None:
    request = GetSequenceRequest(user_id="ann", columns=[sequence_pb2.COLUMN_ITEM_ID] * 40)
    code, reason, metadata, message = refused(server, "SequenceService/GetSequence", request.SerializeToString())
    assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "FIELD_INVALID")
    assert metadata == {"field": "columns", "length": "40", "limit": "5"}
    assert message == "columns: it has 40 entries: send at most 5, the number of columns"


def test_a_user_id_that_is_too_long_has_its_own_reason(server: NodeServer) -> None:
    request = GetSequenceRequest(user_id="x" * 257).SerializeToString()
    assert refused(server, "SequenceService/GetSequence", request)[1] == "USER_ID_INVALID"


def test_a_request_that_is_too_long_is_not_decoded(server: NodeServer) -> None:
    # It would not decode either.
    code, reason, metadata, message = refused(server, "OperatorService/CreateSnapshot", b"\xff" * 60_000)
    assert (code, reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "REQUEST_TOO_LARGE")
    most = MessageLimits(CreateSnapshotRequest.DESCRIPTOR).max_bytes
    assert metadata == {"bytes": "60000", "limit": str(most)}
    assert "docs/limits.md" in message


@pytest.mark.parametrize("method", ["SequenceService/GetSequence", "OperatorService/ListPartitions"])
def test_a_request_that_does_not_decode_is_a_refusal_of_every_service(server: NodeServer, method: str) -> None:
    code, reason, metadata, _ = refused(server, method, b"\xff" * 100)
    assert (code, reason, metadata) == (grpc.StatusCode.INVALID_ARGUMENT, "FIELD_INVALID", {"field": "request"})


def test_every_method_has_limits_and_every_bound_a_field() -> None:
    names = {name for method in methods_of(ALL_SERVICES) for name, _, _ in MessageLimits(method.input_type).rows()}
    group = {name for name in BOUNDS if name.startswith(("lifeline.v1.Group", "lifeline.v1.PlacedPartition"))}
    assert names | group == set(BOUNDS)
    assert len(methods_of(SERVICES)) >= 7


def test_the_document_is_the_table() -> None:
    assert (ROOT / "docs" / "limits.md").read_text() == as_markdown(ALL_SERVICES), (
        "run: lifeline limits > docs/limits.md"
    )
