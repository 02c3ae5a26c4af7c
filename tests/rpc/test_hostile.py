"""Callers who do what no caller should: the node ends what it must, says why where it can, and serves the others."""

import contextlib
import struct
from collections.abc import Iterator
from typing import cast

import grpc
import pytest

from lifeline.client import LifelineClient
from lifeline.core.security import SecuritySettings
from lifeline.rpc.server import NodeServer
from tests.support.http2 import (
    DATA,
    END_HEADERS,
    GOAWAY,
    HEADERS,
    METHOD,
    PING,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    Raw,
    frame,
    headers,
)
from tests.support.secure_servers import serving

ENHANCE_YOUR_CALM = 11


@pytest.fixture
def server() -> Iterator[NodeServer]:
    with serving(SecuritySettings()) as (running, _):
        yield running


@pytest.fixture(autouse=True)
def _serves_the_others(server: NodeServer) -> Iterator[None]:
    """Ask before and after, over one connection that stands all the while, and over a new one.

    While thousands of calls wait to be looked at, gRPC cancels some of anybody's: a client tries again.
    """
    with LifelineClient(server.address, timeout_s=20) as client:
        client.get_sequence("ann")
        yield
        client.get_sequence("ann")
    with LifelineClient(server.address, timeout_s=20) as client:
        client.get_sequence("ann")


def status_of(server: NodeServer, request: bytes, **how: object) -> tuple[grpc.StatusCode, str]:
    """Return what a call with these bytes is ended with."""
    options = (("grpc.max_send_message_length", -1), ("grpc.max_metadata_size", 1 << 22))
    with grpc.insecure_channel(server.address, options) as channel:
        try:
            channel.unary_unary(METHOD, None, None)(request, **({"timeout": 20} | how))  # type: ignore[arg-type]
        except grpc.RpcError as error:
            call = cast("grpc.Call", error)
            return call.code(), call.details() or ""
    return grpc.StatusCode.OK, ""


def test_a_message_that_is_too_large(server: NodeServer) -> None:
    code, why = status_of(server, bytes((4 << 20) + 1))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "larger than max" in why


def test_a_message_that_does_not_decode(server: NodeServer) -> None:
    assert status_of(server, b"\xff" * 100)[0] is not grpc.StatusCode.OK


def test_metadata_that_is_too_large(server: NodeServer) -> None:
    code, _ = status_of(server, b"", metadata=(("x-large", "a" * 100_000),))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("timeout", [-1, -1e9])
def test_a_deadline_that_has_passed(server: NodeServer, timeout: float) -> None:
    assert status_of(server, b"", timeout=timeout)[0] is grpc.StatusCode.DEADLINE_EXCEEDED


@pytest.mark.parametrize("timeout", ["-1S", "1", "99999999999999999999H", "S", "1 S"])
def test_a_deadline_that_is_none(server: NodeServer, timeout: str) -> None:
    with Raw(server) as raw:
        raw.send(frame(HEADERS, END_HEADERS, 1, headers(server, ("grpc-timeout", timeout))))
        raw.send(frame(DATA, 1, 1, b"\0\0\0\0\0"))
        # It is answered or refused, and not left open.
        assert next(kind for kind, _ in raw.frames() if kind in {HEADERS, RST_STREAM, GOAWAY}) is not None


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"\x16\x03\x01" + bytes(500),
        bytes(range(256)) * 64,
        PREFACE + bytes(range(256)) * 64,
        PREFACE + frame(SETTINGS, 0, 0) + frame(HEADERS, END_HEADERS, 1, b"\xff" * 200),
        PREFACE + frame(SETTINGS, 0, 0) + frame(DATA, 0, 7, b"never opened"),
        PREFACE + b"\xff\xff\xff\x00\x00\x00\x00\x00\x01" + bytes(100),
    ],
    ids=[
        "http/1",
        "tls",
        "bytes",
        "bytes after the preface",
        "headers",
        "a stream that was never opened",
        "a huge frame",
    ],
)
def test_garbage(server: NodeServer, garbage: bytes) -> None:
    # Whoever goes on after that is told so, or cut off.
    with Raw(server, garbage) as raw, contextlib.suppress(TimeoutError):
        raw._socket.settimeout(2)
        list(raw.frames())


def test_a_flood_of_pings_is_ended(server: NodeServer) -> None:
    with Raw(server) as raw:
        for _ in range(2_000):
            if not raw.send(frame(PING, 0, 0, bytes(8))):
                break
        # What was cut off may have taken the farewell with it.
        ends = [payload for kind, payload in raw.frames() if kind == GOAWAY]
        assert all(int.from_bytes(payload[4:8]) == ENHANCE_YOUR_CALM for payload in ends)


def test_streams_that_are_reset_as_fast_as_they_are_opened(server: NodeServer) -> None:
    block = headers(server)
    for _ in range(3):
        with Raw(server) as raw:
            for stream in range(1, 4_001, 2):
                opened = frame(HEADERS, END_HEADERS, stream, block) + frame(DATA, 1, stream, b"\0\0\0\0\0")
                if not raw.send(opened + frame(RST_STREAM, 0, stream, struct.pack(">I", 8))):
                    break


def test_connections_that_say_nothing(server: NodeServer) -> None:
    with contextlib.ExitStack() as stack:
        for first in (b"", PREFACE[:10], PREFACE, PREFACE + frame(SETTINGS, 0, 0)):
            for _ in range(20):
                stack.enter_context(Raw(server, first))
        with LifelineClient(server.address, timeout_s=20, retry=False) as client:
            client.get_sequence("ann")
