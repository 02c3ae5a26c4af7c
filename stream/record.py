"""A record of a topic, and a part of the log that is unreadable."""

import hashlib
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol, Self

LOG_APPEND_TIME: Final = 1
HEAD_BYTES: Final = 1_024
"""How many bytes of an unreadable or too large record are kept."""
_HEADER_COST: Final = 64


class Record(Protocol):
    """One record of a topic; the record types of aiokafka and kafka-python match it."""

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
        """Milliseconds since 1970, set as `timestamp_type` says; below 0 when the record has none."""

    @property
    def timestamp_type(self) -> int:
        """Who set the timestamp: LOG_APPEND_TIME for the log, 0 for the producer."""

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
    """A part of the log that is unreadable: one record or a whole batch. It implements `Record`."""

    topic: str
    partition: int
    first_offset: int
    offset: int
    """The last offset of the part."""
    timestamp: int
    """The largest of the batch, in milliseconds since 1970."""
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
        """Return the replacement for `data`, the records from the first to the last of `offsets`."""
        digest = hashlib.sha256(data).hexdigest()
        return cls(topic, partition, *offsets, timestamp, len(data), digest, bytes(data[:HEAD_BYTES]), why)


def first_offset_of(record: Record) -> int:
    """Return a record's own offset, or the first offset of an unreadable part of the log."""
    return record.first_offset if isinstance(record, UnreadableRecords) else record.offset


def size_of(record: Record) -> int:
    """Return the bytes of key, value and headers, and the memory of the header objects."""
    size = len(record.key or b"") + len(record.value or b"")
    if record.headers:
        size += sum(_HEADER_COST + len(name) + len(value or b"") for name, value in record.headers)
    return size


def records_from(records: Sequence[Record], offset: int) -> Sequence[Record]:
    """Return the records at or above `offset`; `records` ascend by offset."""
    if not records or records[0].offset >= offset:
        return records
    return records[bisect_left(records, offset, key=lambda record: record.offset) :]
