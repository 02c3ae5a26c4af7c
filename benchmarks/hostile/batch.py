"""Record batches byte by byte, so that they can be wrong, and the socket that asks a broker to take them.

A batch of format 2, big-endian, and its records::

    base offset i64 | length i32 | leader epoch i32 | magic i8 | crc32c u32 | attributes i16 | last offset delta i32
    | first timestamp i64 | max timestamp i64 | producer id i64 | producer epoch i16 | base sequence i32 | count i32
    | records, compressed as the attributes say

    length varint | attributes i8 | timestamp delta varlong | offset delta varint | key length varint, key
    | value length varint, value | count of headers varint | (name length varint, name, value length varint, value)*

The checksum is right by default, whatever the rest is: what a broker then refuses, it has looked at.
"""

import socket
import struct
from collections.abc import Sequence
from types import TracebackType
from typing import Final, NamedTuple, Self

from aiokafka.record.util import calc_crc32c

NONE, GZIP, SNAPPY, LZ4, ZSTD = range(5)
TRANSACTIONAL: Final = 0x10
CONTROL: Final = 0x20

_BEHIND_CRC: Final = struct.Struct(">hiqqqhii")
_PRODUCE: Final = 0
_VERSION: Final = 7
_CLIENT: Final = b"hostile"

Headers = Sequence[tuple[bytes, bytes | None]]


def varint(number: int) -> bytes:
    """Return a number in zigzag coding, as Kafka writes it."""
    return plain_varint((number << 1) ^ (number >> 63))


def plain_varint(number: int) -> bytes:
    """Return a number that is not negative, seven bits a byte, the lowest first."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def padded_varint(number: int, size: int) -> bytes:
    """Return a number that is not negative in zigzag coding, in `size` bytes, of which the last may say nothing."""
    shortest = varint(number)
    if len(shortest) >= size:
        return shortest
    return shortest[:-1] + bytes([shortest[-1] | 0x80]) + b"\x80" * (size - len(shortest) - 1) + b"\x00"


def field(data: bytes | None) -> bytes:
    """Return bytes with their length before them; None has the length -1."""
    return varint(-1) if data is None else varint(len(data)) + data


def record(
    key: bytes | None,
    value: bytes | None,
    headers: Headers = (),
    *,
    offset_delta: int = 0,
    timestamp_delta: int = 0,
    attributes: bytes = b"\x00",
) -> bytes:
    """Return one record with its length before it."""
    named = b"".join(field(name) + field(data) for name, data in headers)
    return framed(
        attributes
        + varint(timestamp_delta)
        + varint(offset_delta)
        + field(key)
        + field(value)
        + varint(len(headers))
        + named
    )


def framed(body: bytes) -> bytes:
    """Return a record's body with its length before it."""
    return varint(len(body)) + body


def batch(
    records: bytes,
    count: int = 1,
    *,
    attributes: int = NONE,
    last_offset_delta: int | None = None,
    first_timestamp: int = 0,
    max_timestamp: int = 0,
    producer: tuple[int, int, int] = (-1, -1, -1),
) -> bytes:
    """Return a batch around `records`, which are compressed already; `producer` is id, epoch and base sequence."""
    last = count - 1 if last_offset_delta is None else last_offset_delta
    head = _BEHIND_CRC.pack(attributes, last, first_timestamp, max_timestamp, *producer, count)
    inner = head + records
    return struct.pack(">qiibI", 0, len(inner) + 9, -1, 2, calc_crc32c(inner)) + inner


class Outcome(NamedTuple):
    """What a broker answered."""

    error: int
    """Kafka's code; 0 is none, and -1000 says that the broker closed the connection."""
    offset: int
    """Of the first record; -1 where it was refused."""

    @property
    def accepted(self) -> bool:
        """Whether the batch is in the log."""
        return self.error == 0


CLOSED: Final = Outcome(-1000, -1)


class RawProducer:
    """One connection to a broker, which leads every partition. It looks at nothing that it sends."""

    def __init__(self, bootstrap_server: str, timeout_s: float = 10.0) -> None:
        """Connect; raises OSError."""
        host, _, port = bootstrap_server.rpartition(":")
        self._address, self._timeout_s = (host, int(port)), timeout_s
        self._socket = socket.create_connection(self._address, timeout_s)
        self._sent = 0

    def produce(self, topic: str, partition: int, batches: bytes, transactional_id: str | None = None) -> Outcome:
        """Ask for `batches` to be appended, and return the answer; raises OSError when the broker is away."""
        self._sent += 1
        request = _produce(self._sent, topic, partition, batches, transactional_id)
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


def _produce(number: int, topic: str, partition: int, batches: bytes, transactional_id: str | None) -> bytes:
    name = topic.encode()
    transaction = b"\xff\xff" if transactional_id is None else _short(transactional_id.encode())
    return (
        struct.pack(">hhi", _PRODUCE, _VERSION, number)
        + _short(_CLIENT)
        + transaction
        + struct.pack(">hii", -1, 30_000, 1)
        + _short(name)
        + struct.pack(">iii", 1, partition, len(batches))
        + batches
    )


def _short(data: bytes) -> bytes:
    return struct.pack(">h", len(data)) + data
