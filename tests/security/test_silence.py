"""Calls that are opened and then say nothing: they hold threads for a while, and never all of them."""

from collections.abc import Iterator
from contextlib import ExitStack

import grpc
import pytest

from lifeline.core.security import SecuritySettings, token_hash
from lifeline.rpc.server import NodeServer, Services
from lifeline.rpc.settings import NodeSettings
from tests.support.grpc_services import Scores, Sequences
from tests.support.http2 import END_HEADERS, HEADERS, PREFACE, RST_STREAM, SETTINGS, Raw, frame, headers
from tests.support.operators import Models, Operators

CALLS = 300
"""More than the server has threads."""


@pytest.fixture(params=[False, True], ids=["anybody", "callers"])
def server(request: pytest.FixtureRequest) -> Iterator[NodeServer]:
    sequences = Sequences()
    sequences.go.set()
    security = {"callers": {"feed": {"token_sha256": token_hash("feed")}}} if request.param else {}
    running = NodeServer(
        NodeSettings(grpc_address="127.0.0.1:0"),
        Services(sequences, Scores(), Operators(), Models()),
        security=SecuritySettings.model_validate(security),
    )
    yield running
    running.stop(5)


def silent_calls(server: NodeServer) -> bytes:
    """Return frames that open calls, and neither send requests nor end them. None has a token."""
    block = headers(server)
    opened = b"".join(frame(HEADERS, END_HEADERS, 2 * number + 1, block) for number in range(CALLS))
    return PREFACE + frame(SETTINGS, 0, 0) + opened


def test_calls_without_a_request_shut_nobody_out(server: NodeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lifeline.rpc.request_timeout._TIMEOUT_UNDER_LOAD_S", 0.1)
    with ExitStack() as stack:
        stack.enter_context(Raw(server, silent_calls(server)))
        with grpc.insecure_channel(server.address) as channel:
            ask = channel.unary_unary("/lifeline.v1.SequenceService/GetSequence", None, None)
            for _ in range(5):
                assert ask(b"", timeout=30, metadata=(("authorization", "Bearer feed"),)) == b""


def test_a_call_without_a_request_ends(server: NodeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lifeline.rpc.request_timeout._TIMEOUT_S", 0.2)
    with Raw(server, silent_calls(server)) as raw:
        ended = 0
        for kind, _ in raw.frames():
            ended += kind == RST_STREAM
            if ended == CALLS:
                break
        assert ended == CALLS


def test_a_call_that_ends_without_a_request_is_refused(server: NodeServer) -> None:
    with (
        grpc.insecure_channel(server.address) as channel,
        pytest.raises(grpc.RpcError, match="the call ended without a request: send one"),
    ):
        channel.stream_unary("/lifeline.v1.SequenceService/GetSequence", None, None)(iter(()), timeout=30)
