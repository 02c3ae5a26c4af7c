"""Record batches encoded by hand, so that they can be malformed, and a socket that produces them.

A batch of format 2, big-endian, and its records::

    base offset i64 | length i32 | leader epoch i32 | magic i8 | crc32c u32 | attributes i16 | last offset delta i32
    | first timestamp i64 | max timestamp i64 | producer id i64 | producer epoch i16 | base sequence i32 | count i32
    | records, compressed as the attributes say

    length varint | attributes i8 | timestamp delta varlong | offset delta varint | key length varint, key
    | value length varint, value | count of headers varint | (name length varint, name, value length varint, value)*

The checksum is correct by default, so that a broker refuses a batch only for its content.
"""

import socket
import struct
from collections.abc import Sequence
from types import TracebackType
from typing import Final, NamedTuple, Self

from aiokafka.record.util import calc_crc32c

NONE, GZIP, SNAPPY, LZ4, ZSTD = range(5)
"""Compression codecs: the lowest three bits of a batch's attributes."""

_CHECKED_HEADER: Final = struct.Struct(">hiqqqhii")
_PRODUCE: Final = 0
_VERSION: Final = 7
_CLIENT: Final = b"hostile"

Headers = Sequence[tuple[bytes, bytes | None]]


def varint(number: int) -> bytes:
    """Return a number of at most 64 bits in zigzag coding, seven bits a byte, the lowest first."""
    left = (number << 1) ^ (number >> 63)
    out = bytearray()
    while left > 0x7F:
        out.append(left & 0x7F | 0x80)
        left >>= 7
    out.append(left)
    return bytes(out)


def overflowing_varint(number: int) -> bytes:
    """Return five bytes that Java decodes as `number`, 0 to 2**31 - 1: it drops bits above 32.

    Python keeps these bits, and decodes `number` + 7 * 2**31.
    """
    zigzag = number << 1
    low = bytes(zigzag >> shift & 0x7F | 0x80 for shift in (0, 7, 14, 21))
    return low + bytes([zigzag >> 28 & 0x0F | 0x70])


def field(data: bytes | None) -> bytes:
    """Return bytes prefixed with their length; None has the length -1."""
    return varint(-1) if data is None else varint(len(data)) + data


def body(
    key: bytes,
    value: bytes,
    headers: bytes = b"\x00",
    *,
    attributes: bytes = b"\x00",
    timestamp_delta: bytes = b"\x00",
    offset_delta: bytes = b"\x00",
) -> bytes:
    """Return a record without its length prefix, from encoded parts."""
    return attributes + timestamp_delta + offset_delta + key + value + headers


def coded_headers(headers: Headers) -> bytes:
    """Return the encoded headers of a record, prefixed with their count."""
    return varint(len(headers)) + b"".join(field(name) + field(data) for name, data in headers)


def record(key: bytes | None, value: bytes | None, headers: Headers = (), *, offset_delta: int = 0) -> bytes:
    """Return one valid record, prefixed with its length."""
    return framed(body(field(key), field(value), coded_headers(headers), offset_delta=varint(offset_delta)))


def framed(body: bytes) -> bytes:
    """Return a record's body prefixed with its length."""
    return varint(len(body)) + body


def batch(
    records: bytes,
    count: int = 1,
    *,
    timestamp_ms: int = 0,
    attributes: int = NONE,
    last_offset_delta: int | None = None,
    producer: tuple[int, int, int] = (-1, -1, -1),
) -> bytes:
    """Return a batch with `records`, already compressed; `producer` is id, epoch and base sequence.

    By default, `last_offset_delta` is `count` - 1.
    """
    last = count - 1 if last_offset_delta is None else last_offset_delta
    head = _CHECKED_HEADER.pack(attributes, last, timestamp_ms, timestamp_ms, *producer, count)
    inner = head + records
    return struct.pack(">qiibI", 0, len(inner) + 9, -1, 2, calc_crc32c(inner)) + inner


class Outcome(NamedTuple):
    """The answer of a broker."""

    error: int
    """Kafka's error code; 0 is success, -1000 a closed connection."""
    offset: int
    """Offset of the first record; -1 if the batch was refused."""

    @property
    def accepted(self) -> bool:
        """Whether the batch is in the log."""
        return self.error == 0


CLOSED: Final = Outcome(-1000, -1)


class RawProducer:
    """One connection to a broker that leads every partition. It sends batches without validation."""

    def __init__(self, bootstrap_server: str, timeout_s: float = 10.0) -> None:
        """Connect; raises OSError."""
        host, _, port = bootstrap_server.rpartition(":")
        self._address, self._timeout_s = (host, int(port)), timeout_s
        self._socket = socket.create_connection(self._address, timeout_s)
        self._sent = 0

    def produce(self, topic: str, partition: int, batches: bytes) -> Outcome:
        """Ask for `batches` to be appended, and return the answer; raises OSError if the broker is unreachable."""
        self._sent += 1
        request = _produce(self._sent, topic, partition, batches)
        try:
            self._socket.sendall(struct.pack(">i", len(request)) + request)
            answer = self._receive(struct.unpack(">i", self._receive(4))[0])
        except ConnectionError:
            self._socket.close()
            self._socket = socket.create_connection(self._address, self._timeout_s)
            return CLOSED
        at = 4 + 4 + 2 + len(topic.encode()) + 4 + 4
        return Outcome(*struct.unpack_from(">hq", answer, at))

    def _receive(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            part = self._socket.recv(size - len(data))
            if not part:
                raise ConnectionError("the broker closed the connection: connect again")
            data += part
        return bytes(data)

    def close(self) -> None:
        """Disconnect. Idempotent."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _produce(number: int, topic: str, partition: int, batches: bytes) -> bytes:
    name = topic.encode()
    return (
        struct.pack(">hhi", _PRODUCE, _VERSION, number)
        + _short(_CLIENT)
        # No transaction; acks from all replicas; 30 s; one topic with one partition.
        + struct.pack(">hhii", -1, -1, 30_000, 1)
        + _short(name)
        + struct.pack(">iii", 1, partition, len(batches))
        + batches
    )


def _short(data: bytes) -> bytes:
    return struct.pack(">h", len(data)) + data
