"""Hostile connections to the gRPC and HTTP ports: silent, incomplete, slow, floods, open and close."""

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

from benchmarks.hostile.child import Control
from benchmarks.hostile.frame import DATA, END_HEADERS, HEADERS, OPENING, PING, PREFACE, SETTINGS, call_headers, frame
from benchmarks.hostile.target import Target

GRPC_CONNECTIONS: Final = 200
HTTP_CONNECTIONS: Final = 100
FLOODS: Final = 4
FRAMES_PER_S: Final = 50
"""Frames per second of each flood."""
OPENED_PER_S: Final = 20
_RETRY_S: Final = 1.0
_CONNECT_S: Final = 10.0
_HTTP_LINE: Final = b"GET /readyz?verbose HTTP/1.1\r\n"


class _Port:
    """One port, and the outcomes of connections to it."""

    def __init__(self, name: str, address: str, done: Counter[str]) -> None:
        self._name, self._done = name, done
        self._host, _, self._port = address.rpartition(":")

    def count(self, what: str) -> None:
        self._done[f"{self._name}: {what}"] += 1

    @asynccontextmanager
    async def open(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        async with asyncio.timeout(_CONNECT_S):
            reader, writer = await asyncio.open_connection(self._host, int(self._port))
        self.count("opened")
        try:
            yield reader, writer
        finally:
            writer.transport.abort()


async def _hold(first: bytes, port: _Port) -> None:
    """Send `first`, then nothing until the node closes the connection."""
    async with port.open() as (reader, writer):
        writer.write(first)
        while await reader.read(1 << 16):
            pass
        port.count("closed by the node")


async def _drip(content: bytes, port: _Port) -> None:
    """Send one byte per second."""
    async with port.open() as (_, writer):
        for number in itertools.count():
            writer.write(content[number % len(content) :][:1])
            await writer.drain()
            await asyncio.sleep(1)


async def _flood(content: bytes, port: _Port) -> None:
    """Send a frame repeatedly, without reading answers."""
    async with port.open() as (_, writer):
        writer.write(OPENING)
        while True:
            writer.write(content)
            await writer.drain()
            await asyncio.sleep(1 / FRAMES_PER_S)


async def _open_and_close(port: _Port) -> None:
    """Open and close connections."""
    while True:
        async with port.open():
            await asyncio.sleep(1 / OPENED_PER_S)


async def _repeat(attack: "Attack", port: _Port) -> None:
    """Repeat an attack, a second after it ends."""
    while True:
        try:
            await attack(port)
        except (OSError, TimeoutError) as error:
            port.count(type(error).__name__)
        await asyncio.sleep(_RETRY_S)


def hold_connections(target: Target, control: Control) -> Counter[str]:
    """Hold connections until the end; return the counts of their outcomes."""
    done: Counter[str] = Counter()
    asyncio.run(_connections(target, control, done))
    return done


Attack = Callable[[_Port], Awaitable[None]]


def _attacks(target: Target) -> tuple[list[Attack], list[Attack]]:
    """Return the attacks on the gRPC port and on the HTTP port; each one holds one connection."""
    opened = OPENING + frame(
        HEADERS, END_HEADERS, 1, call_headers("/lifeline.v1.SequenceService/GetSequence", target.grpc_address)
    )
    grpc_openings = (
        b"",
        PREFACE[:10],
        PREFACE,
        OPENING,
        opened,
        opened + frame(DATA, 0, 1, b"\0\0\0"),
        b"\x16\x03\x01",
    )
    http_openings = (b"", _HTTP_LINE[:8], _HTTP_LINE, _HTTP_LINE + b"X: " + b"y" * 60_000, b"\xff" * 1_000)
    on_grpc = _slow(GRPC_CONNECTIONS, grpc_openings, opened)
    on_http = _slow(HTTP_CONNECTIONS, http_openings, _HTTP_LINE + b"X-Slow: " + b"y" * 100)
    for content in (frame(PING, 0, 0, bytes(8)), frame(SETTINGS, 0, 0, b"\0\x03\0\0\0\x64")):
        on_grpc += [partial(_flood, content)] * (FLOODS // 2)
    return [*on_grpc, _open_and_close], [*on_http, _open_and_close]


def _slow(count: int, openings: Sequence[bytes], slow_content: bytes) -> list[Attack]:
    """Return `count` attacks: they send one of `openings` and go silent; every fourth one sends slowly."""
    return [
        partial(_drip, slow_content) if number % 4 == 3 else partial(_hold, openings[number % len(openings)])
        for number in range(count)
    ]


async def _connections(target: Target, control: Control, done: Counter[str]) -> None:
    on_grpc, on_http = _attacks(target)
    grpc, http = _Port("gRPC", target.grpc_address, done), _Port("HTTP", target.http_address, done)
    control.begin()
    tasks = [asyncio.create_task(_repeat(attack, grpc)) for attack in on_grpc]
    tasks += [asyncio.create_task(_repeat(attack, http)) for attack in on_http]
    await asyncio.to_thread(control.wait)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
