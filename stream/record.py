"""A record, as every client library gives it."""

import hashlib
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol, Self

LOG_APPEND_TIME: Final = 1
HEAD_BYTES: Final = 1_024
"""How many bytes are kept of a record that cannot be read, or is too large."""
_HEADER_COST: Final = 64


class Record(Protocol):
    """One record of a topic: aiokafka's and kafka-python's both fit."""

    @property
    def topic(self) -> str:
        """Name of its topic."""

    @property
    def partition(self) -> int:
        """Partition of the topic."""

    @property
    def offset(self) -> int:
        """Offset in the partition."""

    @property
    def timestamp(self) -> int:
        """Milliseconds since 1970, as the topic defines; below 0 when the record has none."""

    @property
    def timestamp_type(self) -> int:
        """Whose time that is: LOG_APPEND_TIME, the log's; 0, the producer's."""

    @property
    def key(self) -> bytes | None:
        """The key's bytes."""

    @property
    def value(self) -> bytes | None:
        """The value's bytes; None is a null value."""

    @property
    def headers(self) -> Sequence[tuple[str, bytes | None]]:
        """The headers, in order; a name may come more than once."""


@dataclass(frozen=True, slots=True)
class UnreadableRecords:
    """A stretch of the log that is there and cannot be read: one record, or a whole batch. It is a `Record` itself."""

    topic: str
    partition: int
    first_offset: int
    offset: int
    """The last offset of the stretch."""
    timestamp: int
    """The batch's largest, in milliseconds since 1970."""
    size: int
    """Bytes in the log."""
    sha256: str
    """Of these bytes, in hexadecimal digits."""
    head: bytes
    """The first `HEAD_BYTES` of them."""
    why: str
    key: bytes | None = None
    value: bytes | None = None
    headers: Sequence[tuple[str, bytes | None]] = ()
    timestamp_type: int = 0

    @classmethod
    def of(
        cls, data: memoryview, topic: str, partition: int, offsets: tuple[int, int], timestamp: int, why: str
    ) -> Self:
        """Return what stands for `data`, the records at `offsets`, both included."""
        digest = hashlib.sha256(data).hexdigest()
        return cls(topic, partition, *offsets, timestamp, len(data), digest, bytes(data[:HEAD_BYTES]), why)


def first_offset_of(record: Record) -> int:
    """Return the first offset that a record stands for: its own, unless it is a stretch that cannot be read."""
    return record.first_offset if isinstance(record, UnreadableRecords) else record.offset


def size_of(record: Record) -> int:
    """Return the bytes of key, value and headers, and what the headers' objects take."""
    size = len(record.key or b"") + len(record.value or b"")
    if record.headers:
        size += sum(_HEADER_COST + len(name) + len(value or b"") for name, value in record.headers)
    return size


def records_from(records: Sequence[Record], offset: int) -> Sequence[Record]:
    """Return the records at or above `offset` of a run that ascends by offset."""
    if not records or records[0].offset >= offset:
        return records
    return records[bisect_left(records, offset, key=lambda record: record.offset) :]
