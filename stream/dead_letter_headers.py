"""The headers of dead letters that Lifeline, Kafka Connect, Kafka Streams and Spring write.

Kafka Connect and Kafka Streams write all values as text. Spring writes numbers as big-endian integers, 4 bytes for the
partition and 8 for the offset, and the rest as text. The record's own headers come before the added ones.
"""

import struct
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from lifeline.stream.record import LOG_APPEND_TIME

REASON: Final = "lifeline.reason"
RETRIES: Final = "lifeline.retries"
STUB: Final = "lifeline.stub."
STUB_BYTES: Final = STUB + "bytes"
"""The number of bytes of the record's value, or of the unreadable data; the letter has the first KiB of them. Such a
letter is a stub: the other headers say where the log has the whole, until its retention ends."""
STUB_SHA256: Final = STUB + "sha256"
STUB_UNTIL: Final = STUB + "until"
"""The last offset of the unreadable data, when that is more than one record."""
HEADERS_CUT: Final = "lifeline.headers.cut"
"""Replaces the headers that were left out; the value is their number."""
TIMESTAMP: Final = "lifeline.timestamp"
TIMESTAMP_TYPE: Final = "lifeline.timestamp-type"
TIMESTAMP_TYPES: Final = {0: "CreateTime", LOG_APPEND_TIME: "LogAppendTime"}
CONNECT: Final = "__connect.errors."
_STREAMS: Final = "__streams.errors."
_SPRING: Final = "kafka_dlt-"
_ERROR_PREFIXES: Final = (CONNECT, _STREAMS, _SPRING, REASON, RETRIES, STUB, HEADERS_CUT, TIMESTAMP, TIMESTAMP_TYPE)
_BIG_ENDIAN: Final = {4: struct.Struct(">i"), 8: struct.Struct(">q")}

Headers = Sequence[tuple[str, bytes | None]]


class Origin(NamedTuple):
    """Where a dead letter comes from and why, by its headers; a field without a header is empty or -1."""

    system: str
    """The system that wrote the headers: lifeline, connect, streams or spring."""
    topic: str
    partition: int
    offset: int
    reason: str
    """A `DeadLetterReason`, or the exception's class name of another system."""
    message: str
    timestamp_ms: int = -1
    """The record's own time, milliseconds since 1970; only Lifeline's headers have it."""
    is_log_time: bool = False
    """Whether the log gave the record that time (LogAppendTime), not its producer."""


class _HeaderNames(NamedTuple):
    system: str
    marker: str
    """The header whose presence identifies the system."""
    topic: str
    partition: str
    offset: str
    reason: str
    message: str
    parse_number: Callable[[bytes], int]


def _text_number(value: bytes) -> int:
    return int(value.decode("ascii"))


def _spring_number(value: bytes) -> int:
    number: int = _BIG_ENDIAN[len(value)].unpack(value)[0]
    return number


def _names(system: str, prefix: str, marker: str, reason: str, message: str) -> _HeaderNames:
    return _HeaderNames(
        system, marker, f"{prefix}topic", f"{prefix}partition", f"{prefix}offset", reason, message, _text_number
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
    )._replace(parse_number=_spring_number),
)


def origin_of(headers: Headers) -> Origin | None:
    """Return a dead letter's origin by its headers; None when no known system wrote them.

    When a name comes more than once, the last value counts: a letter that failed again has the newest at the end.
    """
    values = {name: value or b"" for name, value in headers}
    for names in _SYSTEMS:
        if names.marker in values:
            return Origin(
                names.system,
                _text(values.get(names.topic, b"")),
                _number(values.get(names.partition, b""), names.parse_number),
                _number(values.get(names.offset, b""), names.parse_number),
                _text(values.get(names.reason, b"")),
                _text(values.get(names.message, b"")),
                max(-1, _number(values.get(TIMESTAMP, b""), _text_number)),
                values.get(TIMESTAMP_TYPE) == TIMESTAMP_TYPES[LOG_APPEND_TIME].encode(),
            )
    return None


def retries_of(headers: Headers) -> int:
    """Return how often a record was published again; 0 when no header says so."""
    values = [value for name, value in headers if name == RETRIES and value]
    return max(0, _number(values[-1], _text_number)) if values else 0


def is_stub(headers: Headers) -> bool:
    """Return whether a dead letter holds only the beginning of its record, and so cannot be published again."""
    return any(name.startswith(STUB) for name, _ in headers)


def own_headers(headers: Headers) -> list[tuple[str, bytes | None]]:
    """Return the headers that the record had before it became a dead letter."""
    return [(name, value) for name, value in headers if not name.startswith(_ERROR_PREFIXES)]


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")


def _number(value: bytes, parse: Callable[[bytes], int]) -> int:
    try:
        return parse(value)
    except (ValueError, KeyError):
        # Another version of the system may use another format.
        return -1
