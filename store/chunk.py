"""The codec of chunks: n events of one sequence in ascending order, column by column.

Layout, little-endian::

    offset  size  field
         0     1  version, 2
         1     1  flags: 1 = timestamps are uint32 offsets, 2 = their unit is 1,000 ms and not 1 ms
         2     2  n, events; at least 1
         4     2  T, bytes of the timestamp column
         6     2  I, bytes of the ordinal column
         8     8  first timestamp_ms, int64
        16     8  last timestamp_ms, int64
        24     8  xxh3_64 of bytes 0 to 23 followed by the body
        32     T  pco standalone: uint32[n], (timestamp_ms - first) / unit; int64[n], timestamp_ms, without flag 1
      32+T     I  pco standalone, uint32[n]: ordinals
    32+T+I     -  pco standalone, uint16[n]: action_type << 8 | surface

Timestamps in whole seconds are common (logs, imports), but pco does not detect the factor of 1,000, which costs 10 bits
an event: hence the unit. pco has no checksum and decodes most corrupt data without an error: ours covers every byte.
"""

import struct
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple, Self, TypeVar

import numpy as np
import xxhash
from numpy.typing import NDArray
from pcodec import ChunkConfig, DeltaSpec, ModeSpec, standalone

from lifeline.store.errors import CorruptRecordError, FormatVersionError

VERSION = 2
MAX_EVENTS = 4_096

_T = TypeVar("_T", np.int64, np.uint32, np.uint16)

_HEADER = struct.Struct("<BBHHHqqQ")
_CHECKED_HEADER_BYTES = 24
_FLAG_OFFSETS, _FLAG_SECONDS = 1, 2
_SECOND_MS = 1_000
_MAX_OFFSET = (1 << 32) - 1
# Fixed specifications: searching for the best one for each chunk takes three times as long as the encoding. Deltas of
# order 1 suit timestamps; deltas of order 2 are larger on the timestamps of human actions.
_TIMESTAMP = ChunkConfig(compression_level=8, mode_spec=ModeSpec.classic(), delta_spec=DeltaSpec.try_consecutive(1))
_PLAIN = ChunkConfig(compression_level=8, mode_spec=ModeSpec.classic(), delta_spec=DeltaSpec.no_op())


class EventColumns(NamedTuple):
    """Events of one sequence as columns of equal length."""

    timestamp_ms: NDArray[np.int64]
    """int64[n], milliseconds since 1970."""
    ordinal: NDArray[np.uint32]
    """uint32[n], the item's number in the partition."""
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
    def empty(cls, n: int = 0) -> Self:
        """Return uninitialized columns of n events."""
        return cls(np.empty(n, np.int64), np.empty(n, np.uint32), np.empty(n, np.uint16))

    @classmethod
    def concatenate(cls, parts: "list[EventColumns]") -> Self:
        """Join parts one after the other."""
        if not parts:
            return cls.empty()
        return cls(
            np.concatenate([part.timestamp_ms for part in parts]),
            np.concatenate([part.ordinal for part in parts]),
            np.concatenate([part.code for part in parts]),
        )


def encode(events: EventColumns) -> bytes:
    """Encode 1 to MAX_EVENTS events in ascending order."""
    n = events.n
    if not 1 <= n <= MAX_EVENTS:
        raise ValueError(f"a chunk holds 1 to {MAX_EVENTS} events, not {n}")
    first, last = int(events.timestamp_ms[0]), int(events.timestamp_ms[-1])
    flags, column = 0, events.timestamp_ms
    timestamps: bytes
    unit = 1 if (column % _SECOND_MS).any() else _SECOND_MS
    if last - first <= _MAX_OFFSET * unit:
        flags = _FLAG_OFFSETS | (_FLAG_SECONDS if unit == _SECOND_MS else 0)
        offsets = column - first
        timestamps = standalone.simple_compress(
            (offsets // unit if unit > 1 else offsets).astype(np.uint32), _TIMESTAMP
        )
    else:
        timestamps = standalone.simple_compress(column, _TIMESTAMP)
    ordinals: bytes = standalone.simple_compress(events.ordinal, _PLAIN)
    codes: bytes = standalone.simple_compress(events.code, _PLAIN)
    body = timestamps + ordinals + codes
    fields = VERSION, flags, n, len(timestamps), len(ordinals), first, last
    unchecked = _HEADER.pack(*fields, 0)[:_CHECKED_HEADER_BYTES]
    return _HEADER.pack(*fields, xxhash.xxh3_64_intdigest(unchecked + body)) + body


class Chunk(NamedTuple):
    """A chunk whose checksum has been verified and whose columns are still encoded."""

    data: bytes
    n: int
    """Events."""
    first_timestamp_ms: int
    """Timestamp of the oldest event."""
    last_timestamp_ms: int
    """Timestamp of the newest event."""
    flags: int
    timestamp_bytes: int
    """Encoded length of the timestamp column."""
    ordinal_bytes: int
    """Encoded length of the ordinal column."""

    @property
    def header(self) -> bytes:
        """The bytes of the header, which include the checksum of the rest."""
        return self.data[: _HEADER.size]

    @property
    def code_bytes(self) -> int:
        """Encoded length of the code column."""
        return len(self.data) - _HEADER.size - self.timestamp_bytes - self.ordinal_bytes

    @property
    def encoding(self) -> str:
        """The encoding of the timestamps, for people."""
        if not self.flags & _FLAG_OFFSETS:
            return "int64 ms"
        return "uint32 s" if self.flags & _FLAG_SECONDS else "uint32 ms"

    @classmethod
    def open(cls, data: bytes) -> Self:
        """Check a chunk's bytes; raises CorruptRecordError, FormatVersionError."""
        if len(data) < _HEADER.size:
            raise CorruptRecordError(f"a chunk of {len(data)} bytes is shorter than its header")
        version, flags, n, timestamp_bytes, ordinal_bytes, first, last, checksum = _HEADER.unpack_from(data)
        if xxhash.xxh3_64_intdigest(data[:_CHECKED_HEADER_BYTES] + data[_HEADER.size :]) != checksum:
            raise CorruptRecordError("a chunk's checksum does not match its bytes")
        if version != VERSION or flags > (_FLAG_OFFSETS | _FLAG_SECONDS):
            raise FormatVersionError("a chunk", f"{version} with flags {flags}", VERSION)
        if not 1 <= n <= MAX_EVENTS or _HEADER.size + timestamp_bytes + ordinal_bytes > len(data):
            raise CorruptRecordError("a chunk's lengths do not match its bytes")
        return cls(data, n, first, last, flags, timestamp_bytes, ordinal_bytes)

    @property
    def _ordinals_at(self) -> int:
        return _HEADER.size + self.timestamp_bytes

    def timestamps_into(self, offsets: NDArray[np.uint32], into: NDArray[np.int64]) -> int:
        """Decode the timestamps into `offsets` and return their unit in ms, or into `into` and return 0.

        Raises CorruptRecordError.
        """
        column = self.data[_HEADER.size : self._ordinals_at]
        if not self.flags & _FLAG_OFFSETS:
            _decode(column, into)
            return 0
        _decode(column, offsets)
        return _SECOND_MS if self.flags & _FLAG_SECONDS else 1

    def ordinals_into(self, into: NDArray[np.uint32]) -> None:
        """Decode the ordinals into uint32[n]; raises CorruptRecordError."""
        at = self._ordinals_at
        _decode(self.data[at : at + self.ordinal_bytes], into)

    def codes_into(self, into: NDArray[np.uint16]) -> None:
        """Decode the codes into uint16[n]; raises CorruptRecordError."""
        _decode(self.data[self._ordinals_at + self.ordinal_bytes :], into)


class ColumnSelection(NamedTuple):
    """The columns to decode; the others are not written."""

    timestamps: bool = True
    ordinals: bool = True
    codes: bool = True


ALL_COLUMNS = ColumnSelection()


def decode_all(chunks: Sequence[Chunk], into: EventColumns, columns: ColumnSelection = ALL_COLUMNS) -> None:
    """Decode chunks one after the other into the first rows of `into`; raises CorruptRecordError."""
    if not chunks:
        return
    ends = list(accumulate(chunk.n for chunk in chunks))
    starts = [0, *ends[:-1]]
    if columns.timestamps:
        _decode_timestamps(chunks, starts, ends, into.timestamp_ms)
    if columns.ordinals:
        for chunk, start, end in zip(chunks, starts, ends, strict=True):
            chunk.ordinals_into(into.ordinal[start:end])
    if columns.codes:
        for chunk, start, end in zip(chunks, starts, ends, strict=True):
            chunk.codes_into(into.code[start:end])


def decode(data: bytes) -> EventColumns:
    """Decode a whole chunk; raises CorruptRecordError, FormatVersionError."""
    chunk = Chunk.open(data)
    events = EventColumns.empty(chunk.n)
    decode_all((chunk,), events)
    return events


def _decode_timestamps(chunks: Sequence[Chunk], starts: list[int], ends: list[int], into: NDArray[np.int64]) -> None:
    offsets = np.empty(ends[-1], np.uint32)
    units = [
        chunk.timestamps_into(offsets[start:end], into[start:end])
        for chunk, start, end in zip(chunks, starts, ends, strict=True)
    ]
    firsts = np.array([chunk.first_timestamp_ms for chunk in chunks])
    # Few operations over all chunks at once: chunks are short, and each NumPy call costs a microsecond.
    if 0 not in units:
        times = into[: ends[-1]]
        counts = [chunk.n for chunk in chunks]
        if _SECOND_MS in units:
            np.multiply(offsets, np.repeat(np.array(units), counts), out=times, dtype=np.int64)
        else:
            times[:] = offsets
        times += firsts.repeat(counts)
    else:
        for chunk, unit, start, end in zip(chunks, units, starts, ends, strict=True):
            if unit:
                np.multiply(offsets[start:end], unit, out=into[start:end], dtype=np.int64)
                into[start:end] += chunk.first_timestamp_ms
    lasts = np.array([chunk.last_timestamp_ms for chunk in chunks])
    if (into[starts] != firsts).any() or (into[np.array(ends) - 1] != lasts).any():
        raise CorruptRecordError("a chunk's timestamps do not match its header")


def _decode(column: bytes, into: NDArray[_T]) -> None:
    # pco decodes into an array of the size in the verified header, so corrupt bytes cannot cause a large allocation.
    try:
        progress = standalone.simple_decompress_into(column, into)
    except (RuntimeError, TypeError) as error:
        raise CorruptRecordError(f"a chunk's column does not decode: {error}") from error
    if progress.n_processed != len(into) or not progress.finished:
        raise CorruptRecordError("a chunk's column has another number of events than its header says")
