"""HTTP/2 frame by frame, for clients that break its rules."""

import socket
import struct
from collections.abc import Iterator
from typing import Protocol, Self

METHOD = "/lifeline.v1.SequenceService/GetSequence"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY = 0, 1, 3, 4, 6, 7
END_HEADERS = 4


class Server(Protocol):
    """A server in this process, or a node in another one."""

    @property
    def address(self) -> str:
        """Return host:port."""


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def headers(server: Server, *more: tuple[str, str]) -> bytes:
    """Return a call's header block, each field told in full."""
    fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", METHOD),
        (":authority", server.address),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        *more,
    ]
    block = b""
    for name, value in fields:
        assert len(value) < 127
        block += b"\x00" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
    return block


class Raw:
    """A connection that speaks frames."""

    def __init__(self, server: Server, first: bytes = PREFACE + frame(SETTINGS, 0, 0)) -> None:
        host, _, port = server.address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), timeout=20)
        self._left = b""
        self.send(first)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, content: bytes) -> bool:
        """Return False where the node has closed the connection."""
        try:
            self._socket.sendall(content)
        except OSError:
            return False
        return True

    def frames(self) -> Iterator[tuple[int, bytes]]:
        """Yield the kind and the payload of frames until the node closes."""
        while True:
            while len(self._left) >= 9 and len(self._left) >= 9 + int.from_bytes(self._left[:3]):
                end = 9 + int.from_bytes(self._left[:3])
                yield self._left[3], self._left[9:end]
                self._left = self._left[end:]
            try:
                got = self._socket.recv(1 << 16)
            except ConnectionResetError:
                return
            if not got:
                return
            self._left += got
