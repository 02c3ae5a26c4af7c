"""HTTP/2 frames encoded by hand, so that they can be malformed."""

import struct
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING = 0, 1, 3, 4, 6
END_STREAM, END_HEADERS = 1, 4
CANCEL: Final = struct.pack(">I", 8)


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Return one frame."""
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


OPENING: Final = PREFACE + frame(SETTINGS, 0, 0)
"""The first bytes of a connection."""


def call_headers(path: str, authority: str, *more: tuple[str, str]) -> bytes:
    """Return the header block of a gRPC call, uncompressed; names and values have at most 126 bytes."""
    fields = (
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", authority),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        *more,
    )
    return b"".join(
        b"\x00" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode() for name, value in fields
    )


def message(payload: bytes, *, compressed: bool = False, length: int | None = None) -> bytes:
    """Return a gRPC message with its five-byte prefix, whose length may be wrong."""
    return struct.pack(">BI", compressed, len(payload) if length is None else length) + payload
