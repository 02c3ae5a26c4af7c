"""What the stream needs of a record, whichever client library read it."""

from collections.abc import Sequence
from typing import Protocol


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
    def key(self) -> bytes | None:
        """The key's bytes."""

    @property
    def value(self) -> bytes | None:
        """The value's bytes; None is a null value."""

    @property
    def headers(self) -> Sequence[tuple[str, bytes | None]]:
        """The headers, in order; a name may come more than once."""


def size_of(record: Record) -> int:
    """Return the bytes of key and value."""
    return len(record.key or b"") + len(record.value or b"")
