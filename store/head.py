"""Head records and segments: the unsealed part of a sequence.

A head is one record for each user and kind, little-endian::

    offset  size  field
         0     1  version, 1
         1     1  flags: 1 = the sealed part is present
         2     1  i, inline events
         3     1  u, bytes of the user id less one
         4     4  first segment number
         8     4  next segment number
        12     4  unsealed events, in segments and inline
        16    18  newest identity: timestamp_ms int64, item_id uint64, code uint16
       [34    42  sealed part: sealed events uint32, skip uint16, sealed mark (identity),
                  fence of the oldest chunk (identity)]
         -   u+1  the user id, UTF-8
         -  14*i  inline events, in order of arrival

An event takes 14 bytes: timestamp_ms int64, ordinal uint32, code uint16. A segment is a version byte, 1,
followed by events in order of arrival.

`skip` counts events of the oldest chunk that have been trimmed and are still inside it.
"""

import struct
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from store.actions import Identity
from store.chunk import EventColumns
from store.errors import CorruptRecordError, FormatVersionError

VERSION = 1
EVENT = np.dtype([("timestamp_ms", "<i8"), ("ordinal", "<u4"), ("code", "<u2")])
EVENT_BYTES = EVENT.itemsize
SEGMENT_PREFIX = bytes([VERSION])

_FIXED = struct.Struct("<BBBBIIIqQH")
_SEALED = struct.Struct("<IHqQHqQH")
_FLAG_SEALED = 1
_LOWEST = Identity(-(1 << 63), 0, 0)


class SealedPart(NamedTuple):
    """What a head knows of its chunks."""

    events: int
    """Retained events in all chunks, without the skipped ones."""
    skip: int
    """Trimmed events at the start of the oldest chunk."""
    mark: Identity
    """The newest sealed identity: every unsealed event is above it."""
    oldest: Identity
    """The fence, that is the key, of the oldest chunk."""


@dataclass(slots=True)
class Head:
    """A head record in memory; the writer alone changes it."""

    user_id: bytes
    segment_first: int = 0
    segment_next: int = 0
    unsealed: int = 0
    newest: Identity = _LOWEST
    sealed: SealedPart | None = None
    inline: bytes = field(default=b"", repr=False)

    @property
    def events(self) -> int:
        """Retained events of the sequence."""
        return self.unsealed + (self.sealed.events if self.sealed else 0)

    def pack(self) -> bytes:
        """Return the record's bytes."""
        fixed = _FIXED.pack(
            VERSION,
            _FLAG_SEALED if self.sealed else 0,
            len(self.inline) // EVENT_BYTES,
            len(self.user_id) - 1,
            self.segment_first,
            self.segment_next,
            self.unsealed,
            *self.newest,
        )
        if self.sealed is None:
            return fixed + self.user_id + self.inline
        sealed = self.sealed
        return (
            fixed + _SEALED.pack(sealed.events, sealed.skip, *sealed.mark, *sealed.oldest) + self.user_id + self.inline
        )

    @classmethod
    def unpack(cls, data: bytes) -> "Head":
        """Read a record; raises CorruptRecordError, FormatVersionError."""
        if len(data) < _FIXED.size:
            raise CorruptRecordError(f"a head of {len(data)} bytes is shorter than its fixed part")
        version, flags, inline, user_bytes, first, following, unsealed, *newest = _FIXED.unpack_from(data)
        check_version("head", version)
        at, sealed = _FIXED.size, None
        if flags & _FLAG_SEALED:
            if len(data) < at + _SEALED.size:
                raise CorruptRecordError("a head's sealed part is cut off")
            events, skip, *identities = _SEALED.unpack_from(data, at)
            sealed = SealedPart(events, skip, Identity(*identities[:3]), Identity(*identities[3:]))
            at += _SEALED.size
        inline_at = at + user_bytes + 1
        if len(data) != inline_at + inline * EVENT_BYTES:
            raise CorruptRecordError(f"a head of {len(data)} bytes does not fit its own lengths")
        return cls(data[at:inline_at], first, following, unsealed, Identity(*newest), sealed, data[inline_at:])


def check_version(what: str, version: int) -> None:
    """Raise FormatVersionError unless this program writes that version."""
    if version != VERSION:
        raise FormatVersionError(f"a {what}", version, VERSION)


def pack_events(events: EventColumns) -> bytes:
    """Return 14 bytes an event."""
    rows = np.empty(events.n, EVENT)
    rows["timestamp_ms"], rows["ordinal"], rows["code"] = events
    return rows.tobytes()


def unpack_events(data: bytes) -> EventColumns:
    """Read events of 14 bytes; raises CorruptRecordError when a part of one is missing."""
    if len(data) % EVENT_BYTES:
        raise CorruptRecordError(f"{len(data)} bytes are not a whole number of events")
    rows: NDArray[np.void] = np.frombuffer(data, EVENT)
    return EventColumns(rows["timestamp_ms"].copy(), rows["ordinal"].copy(), rows["code"].copy())


def segment_events(data: bytes) -> bytes:
    """Return the events of a segment, 14 bytes each; raises CorruptRecordError, FormatVersionError."""
    if not data:
        raise CorruptRecordError("a segment is empty")
    check_version("segment", data[0])
    return data[1:]
