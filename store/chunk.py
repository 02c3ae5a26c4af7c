"""The codec of sealed chunks: n events of one sequence in ascending order, column by column.

Layout, little-endian::

    offset  size  field
         0     1  version, 1
         1     1  flags, 0
         2     2  n, events; at least 1
         4     2  T, bytes of the timestamp column
         6     2  I, bytes of the ordinal column
         8     8  first timestamp_ms, int64
        16     8  last timestamp_ms, int64
        24     8  xxh3_64 of bytes 0 to 23 followed by the body
        32     T  pco standalone, int64[n]: timestamp_ms
      32+T     I  pco standalone, uint32[n]: ordinals
    32+T+I     -  pco standalone, uint16[n]: action_type << 8 | surface

pco has no checksum of its own and decodes most flipped bits without complaint: ours covers every byte.
"""

import struct
from typing import NamedTuple, Self, TypeVar

import numpy as np
import xxhash
from numpy.typing import NDArray
from pcodec import ChunkConfig, DeltaSpec, ModeSpec, standalone

from store.errors import CorruptRecordError, FormatVersionError

VERSION = 1
MAX_EVENTS = 4_096

_T = TypeVar("_T", np.int64, np.uint32, np.uint16)

_HEADER = struct.Struct("<BBHHHqqQ")
_CHECKED_HEADER_BYTES = 24
# Fixed specifications: looking for the best one at every chunk costs three times the encoding. First
# differences suit timestamps; second ones grow on human timestamps.
_TIMESTAMP = ChunkConfig(compression_level=8, mode_spec=ModeSpec.classic(), delta_spec=DeltaSpec.try_consecutive(1))
_PLAIN = ChunkConfig(compression_level=8, mode_spec=ModeSpec.classic(), delta_spec=DeltaSpec.no_op())


class EventColumns(NamedTuple):
    """Events of one sequence as columns of equal length."""

    timestamp_ms: NDArray[np.int64]
    """int64[n], milliseconds since 1970."""
    ordinal: NDArray[np.uint32]
    """uint32[n], the partition's number of the item."""
    code: NDArray[np.uint16]
    """uint16[n], action_type << 8 | surface."""

    @property
    def n(self) -> int:
        """Events."""
        return len(self.timestamp_ms)

    def take(self, rows: "NDArray[np.int64] | NDArray[np.bool_] | slice") -> Self:
        """Return the given rows."""
        return type(self)(self.timestamp_ms[rows], self.ordinal[rows], self.code[rows])

    @classmethod
    def concatenate(cls, parts: "list[EventColumns]") -> Self:
        """Join parts one after the other."""
        return cls(
            np.concatenate([part.timestamp_ms for part in parts]) if parts else np.empty(0, np.int64),
            np.concatenate([part.ordinal for part in parts]) if parts else np.empty(0, np.uint32),
            np.concatenate([part.code for part in parts]) if parts else np.empty(0, np.uint16),
        )


def encode(events: EventColumns) -> bytes:
    """Encode 1 to MAX_EVENTS events in ascending order."""
    n = events.n
    if not 1 <= n <= MAX_EVENTS:
        raise ValueError(f"a chunk holds 1 to {MAX_EVENTS} events, not {n}")
    timestamps: bytes = standalone.simple_compress(events.timestamp_ms, _TIMESTAMP)
    ordinals: bytes = standalone.simple_compress(events.ordinal, _PLAIN)
    codes: bytes = standalone.simple_compress(events.code, _PLAIN)
    body = timestamps + ordinals + codes
    fields = (
        VERSION,
        0,
        n,
        len(timestamps),
        len(ordinals),
        int(events.timestamp_ms[0]),
        int(events.timestamp_ms[-1]),
    )
    unchecked = _HEADER.pack(*fields, 0)[:_CHECKED_HEADER_BYTES]
    return _HEADER.pack(*fields, xxhash.xxh3_64_intdigest(unchecked + body)) + body


class Header(NamedTuple):
    """What a chunk says of itself, checked."""

    n: int
    """Events."""
    first_timestamp_ms: int
    """Timestamp of the oldest event."""
    last_timestamp_ms: int
    """Timestamp of the newest event."""
    timestamp_bytes: int
    """Length of the timestamp column."""
    ordinal_bytes: int
    """Length of the ordinal column."""


def header(data: bytes) -> Header:
    """Check every byte of a chunk and return its header; raises CorruptRecordError, FormatVersionError."""
    if len(data) < _HEADER.size:
        raise CorruptRecordError(f"a chunk of {len(data)} bytes is shorter than its header")
    version, flags, n, timestamp_bytes, ordinal_bytes, first, last, checksum = _HEADER.unpack_from(data)
    if xxhash.xxh3_64_intdigest(data[:_CHECKED_HEADER_BYTES] + data[_HEADER.size :]) != checksum:
        raise CorruptRecordError("a chunk's checksum does not fit its bytes")
    if version != VERSION or flags:
        raise FormatVersionError("a chunk", f"{version} with flags {flags}", VERSION)
    if not 1 <= n <= MAX_EVENTS or _HEADER.size + timestamp_bytes + ordinal_bytes > len(data):
        raise CorruptRecordError("a chunk's lengths do not fit its bytes")
    return Header(n, first, last, timestamp_bytes, ordinal_bytes)


def decode(data: bytes) -> EventColumns:
    """Decode a chunk; raises CorruptRecordError, FormatVersionError."""
    head = header(data)
    ordinals_at = _HEADER.size + head.timestamp_bytes
    codes_at = ordinals_at + head.ordinal_bytes
    return EventColumns(
        _column(data[_HEADER.size : ordinals_at], np.empty(head.n, np.int64)),
        _column(data[ordinals_at:codes_at], np.empty(head.n, np.uint32)),
        _column(data[codes_at:], np.empty(head.n, np.uint16)),
    )


def _column(data: bytes, into: NDArray[_T]) -> NDArray[_T]:
    try:
        progress = standalone.simple_decompress_into(data, into)
    except (RuntimeError, TypeError) as error:
        raise CorruptRecordError(f"a chunk's column does not decode: {error}") from error
    if progress.n_processed != len(into) or not progress.finished:
        raise CorruptRecordError("a chunk's column holds another number of events than its header says")
    return into
