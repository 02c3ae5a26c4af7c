"""The headers of dead letters: ours, Kafka Connect's, Kafka Streams' and Spring's, read alike.

Kafka Connect and Kafka Streams write text. Spring writes text too, but numbers as big-endian integers, the partition
in 4 bytes and the offset in 8. The headers that the record had itself stand before those that a system added.
"""

import struct
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from lifeline.stream.record import LOG_APPEND_TIME

REASON: Final = "lifeline.reason"
RETRIES: Final = "lifeline.retries"
STUB: Final = "lifeline.stub."
STUB_BYTES: Final = STUB + "bytes"
"""Bytes of the record's value, or of what could not be read; the letter has the first KiB of them. Such a letter is a
stub: the whole is in the log where the other headers say, for as long as the log holds it."""
STUB_SHA256: Final = STUB + "sha256"
STUB_UNTIL: Final = STUB + "until"
"""The last offset of what could not be read, where that is more than one record."""
HEADERS_CUT: Final = "lifeline.headers.cut"
"""A header that stands for those that were left out; its value is their number."""
TIMESTAMP: Final = "lifeline.timestamp"
TIMESTAMP_TYPE: Final = "lifeline.timestamp-type"
TIMESTAMP_TYPES: Final = {0: "CreateTime", LOG_APPEND_TIME: "LogAppendTime"}
CONNECT: Final = "__connect.errors."
_STREAMS: Final = "__streams.errors."
_SPRING: Final = "kafka_dlt-"
_ADDED: Final = (CONNECT, _STREAMS, _SPRING, REASON, RETRIES, STUB, HEADERS_CUT, TIMESTAMP, TIMESTAMP_TYPE)
_BIG_ENDIAN: Final = {4: struct.Struct(">i"), 8: struct.Struct(">q")}

Headers = Sequence[tuple[str, bytes | None]]


class Origin(NamedTuple):
    """Where a dead letter comes from and why, as far as its headers say; empty and -1 where they do not."""

    system: str
    """Who wrote the headers: lifeline, connect, streams or spring."""
    topic: str
    partition: int
    offset: int
    reason: str
    """One of our reasons, or the class of the exception."""
    message: str
    timestamp_ms: int = -1
    """The record's own time, milliseconds since 1970; only ours say."""
    log_time: bool = False
    """Whether its topic gave it that time, and not its producer."""


class _Names(NamedTuple):
    system: str
    mark: str
    """A system has written the headers when this one is there."""
    topic: str
    partition: str
    offset: str
    reason: str
    message: str
    number: Callable[[bytes], int]


def _text_number(value: bytes) -> int:
    return int(value.decode("ascii"))


def _spring_number(value: bytes) -> int:
    number: int = _BIG_ENDIAN[len(value)].unpack(value)[0]
    return number


def _names(system: str, prefix: str, mark: str, reason: str, message: str) -> _Names:
    return _Names(
        system, mark, f"{prefix}topic", f"{prefix}partition", f"{prefix}offset", reason, message, _text_number
    )


_SYSTEMS: Final = (
    _names("lifeline", CONNECT, REASON, REASON, f"{CONNECT}exception.message"),
    _names("connect", CONNECT, f"{CONNECT}topic", f"{CONNECT}exception.class.name", f"{CONNECT}exception.message"),
    _names("streams", _STREAMS, f"{_STREAMS}topic", f"{_STREAMS}exception", f"{_STREAMS}message"),
    _names(
        "spring",
        f"{_SPRING}original-",
        f"{_SPRING}original-topic",
        f"{_SPRING}exception-fqcn",
        f"{_SPRING}exception-message",
    )._replace(number=_spring_number),
)


def origin_of(headers: Headers) -> Origin | None:
    """Return what the headers say of a dead letter's origin; None when no system that is known wrote any.

    Of a name that comes more than once the last counts: a letter that failed again has the newest at the end.
    """
    found = {name: value or b"" for name, value in headers}
    for names in _SYSTEMS:
        if names.mark in found:
            return Origin(
                names.system,
                _text(found.get(names.topic, b"")),
                _number(found.get(names.partition, b""), names.number),
                _number(found.get(names.offset, b""), names.number),
                _text(found.get(names.reason, b"")),
                _text(found.get(names.message, b"")),
                max(-1, _number(found.get(TIMESTAMP, b""), _text_number)),
                found.get(TIMESTAMP_TYPE) == TIMESTAMP_TYPES[LOG_APPEND_TIME].encode(),
            )
    return None


def retries_of(headers: Headers) -> int:
    """Return how often a record was published again; 0 for one that never was, or does not say."""
    values = [value for name, value in headers if name == RETRIES and value]
    return max(0, _number(values[-1], _text_number)) if values else 0


def is_stub(headers: Headers) -> bool:
    """Say whether a dead letter holds only the beginning of its record, so that it cannot be published again."""
    return any(name.startswith(STUB) for name, _ in headers)


def own_headers(headers: Headers) -> list[tuple[str, bytes | None]]:
    """Return the headers that the record had before it became a dead letter."""
    return [(name, value) for name, value in headers if not name.startswith(_ADDED)]


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")


def _number(value: bytes, read: Callable[[bytes], int]) -> int:
    try:
        return read(value)
    except (ValueError, KeyError):
        # Other versions write other forms.
        return -1
