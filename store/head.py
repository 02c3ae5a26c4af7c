"""Heads: the record that describes a sequence and holds its newest events.

A record is little-endian; fields that a short sequence does not need are left out::

    size  field
       1  version, 2
       1  flags
       1  i, inline events
       1  number of the newest event among the inline ones; 0 with flag 1
      18  newest identity                                       flag 1: it is not inline
       6  segments uint8, runs uint8, events in them uint32     flag 2
      42  sealed part: events uint32, skip uint16, sealed mark (identity), fence of the oldest chunk (identity)
                                                                flag 4
       4  hour of the expiry key, uint32                        flag 8
    14*i  inline events, in order of arrival (segment.py)

An identity is timestamp_ms int64, item_id uint64, code uint16. The first `runs` segments are results of merges, the
others are raw. `skip` counts the events of the oldest chunk that are trimmed but still stored in it.
"""

import struct
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lifeline.store.errors import CorruptRecordError, FormatVersionError
from lifeline.store.segment import EVENT_BYTES, ONE_EVENT

VERSION = 2
MAX_SEGMENTS = 255

START = struct.Struct("<BBBB")
_IDENTITY = struct.Struct("<qQH")
_SEGMENTS = struct.Struct("<BBI")
_SEALED = struct.Struct("<IHqQHqQH")
_HOUR = struct.Struct("<I")
NEWEST, HAS_SEGMENTS, HAS_SEALED, HAS_HOUR = 1, 2, 4, 8
PARTS = (_IDENTITY, _SEGMENTS, _SEALED, _HOUR)
"""The optional parts after the start of a record, in this order: part n is present if bit n of the flags is set."""
_ALL_FLAGS = NEWEST | HAS_SEGMENTS | HAS_SEALED | HAS_HOUR
_NEVER_MS = -(1 << 63)
LOWEST = (_NEVER_MS, 0, 0)
"""The newest identity of a sequence without events."""


class SealedPart(NamedTuple):
    """What a head says about the chunks of its sequence."""

    events: int
    """Retained events in all chunks, without the skipped ones."""
    skip: int
    """Trimmed events at the start of the oldest chunk."""
    mark: tuple[int, int, int]
    """The newest sealed identity: every unsealed event is above it."""
    oldest: tuple[int, int, int]
    """The fence, that is the key, of the oldest chunk."""


@dataclass(slots=True)
class Head:
    """A head record in memory. Only the writer changes it."""

    newest_ms: int = _NEVER_MS
    """Timestamp of the newest event."""
    newest_at: int | None = None
    """The index of the newest event among the inline ones; None if it is not inline."""
    newest_identity: tuple[int, int, int] | None = None
    """The identity of the newest event if it is not inline."""
    segments: int = 0
    """Segments, numbered from 0."""
    runs: int = 0
    """How many of the segments, the first ones, are results of merges."""
    in_segments: int = 0
    """Events in segments."""
    sealed: SealedPart | None = None
    expiry_hour: int | None = None
    """The hour of the sequence's expiry key, where there is one."""
    inline: bytes = field(default=b"", repr=False)

    @property
    def unsealed(self) -> int:
        """Events in segments and inline."""
        return self.in_segments + len(self.inline) // EVENT_BYTES

    @property
    def events(self) -> int:
        """Retained events of the sequence."""
        return self.unsealed + (self.sealed.events if self.sealed else 0)

    def newest(self, ids: NDArray[np.uint64]) -> tuple[int, int, int]:
        """Return the newest identity; `ids` is uint64[m], the item id of each ordinal."""
        if self.newest_at is None:
            return self.newest_identity or LOWEST
        timestamp_ms, ordinal, code = ONE_EVENT.unpack_from(self.inline, self.newest_at * EVENT_BYTES)
        return timestamp_ms, ids.item(ordinal), code

    def append(self, packed: bytes, newest_ms: int) -> int:
        """Add inline events of 14 bytes; the last becomes the sequence's newest. Returns `unsealed`."""
        self.inline += packed
        inline = len(self.inline) // EVENT_BYTES
        self.newest_ms, self.newest_at = newest_ms, inline - 1
        return self.in_segments + inline

    def set_newest_identity(self, newest: tuple[int, int, int]) -> None:
        """Set the newest identity of a sequence whose newest event is not inline."""
        self.newest_ms, self.newest_at, self.newest_identity = newest[0], None, newest

    def pack(self) -> bytes:
        """Return the record's bytes."""
        inline, at = self.inline, self.newest_at
        if at is not None and not self.segments and self.sealed is None and self.expiry_hour is None:
            return START.pack(VERSION, 0, len(inline) // EVENT_BYTES, at) + inline
        flags, parts = 0, []
        if at is None:
            flags |= NEWEST
            parts.append(_IDENTITY.pack(*(self.newest_identity or LOWEST)))
        if self.segments:
            flags |= HAS_SEGMENTS
            parts.append(_SEGMENTS.pack(self.segments, self.runs, self.in_segments))
        if self.sealed is not None:
            flags |= HAS_SEALED
            events, skip, mark, oldest = self.sealed
            parts.append(_SEALED.pack(events, skip, *mark, *oldest))
        if self.expiry_hour is not None:
            flags |= HAS_HOUR
            parts.append(_HOUR.pack(self.expiry_hour))
        return b"".join([START.pack(VERSION, flags, len(inline) // EVENT_BYTES, at or 0), *parts, inline])

    @classmethod
    def unpack(cls, data: bytes, items: int) -> "Head":
        """Read a record of a partition that has numbered `items` items.

        Raises CorruptRecordError, FormatVersionError.
        """
        try:
            version, flags, inline, newest_at = START.unpack_from(data)
            if version != VERSION or flags > _ALL_FLAGS:
                raise FormatVersionError("a head", f"{version} with flags {flags}", VERSION)
            at = START.size
            head = cls()
            if flags:
                at = head._unpack_parts(data, at, flags)
        except struct.error as error:
            raise CorruptRecordError(f"a head of {len(data)} bytes is cut off") from error
        if len(data) != at + inline * EVENT_BYTES:
            raise CorruptRecordError(f"a head of {len(data)} bytes has another length than its fields say")
        head.inline = data[at:]
        if not flags & NEWEST:
            if newest_at >= inline:
                raise CorruptRecordError(f"a head of {inline} inline events says that number {newest_at} is the newest")
            head.newest_ms, ordinal, _ = ONE_EVENT.unpack_from(data, at + newest_at * EVENT_BYTES)
            if ordinal >= items:
                raise CorruptRecordError(f"a head has item ordinal {ordinal}, and the partition has {items} items")
            head.newest_at = newest_at
        return head

    def _unpack_parts(self, data: bytes, at: int, flags: int) -> int:
        """Read the parts that the flags select; returns the end position."""
        if flags & NEWEST:
            self.set_newest_identity(_IDENTITY.unpack_from(data, at))
            at += _IDENTITY.size
        if flags & HAS_SEGMENTS:
            self.segments, self.runs, self.in_segments = _SEGMENTS.unpack_from(data, at)
            if not 0 < self.segments <= self.in_segments or self.runs > self.segments:
                raise CorruptRecordError(
                    f"a head has {self.segments} segments, {self.runs} of them runs, of {self.in_segments} events"
                )
            at += _SEGMENTS.size
        if flags & HAS_SEALED:
            events, skip, *identities = _SEALED.unpack_from(data, at)
            self.sealed = SealedPart(events, skip, tuple(identities[:3]), tuple(identities[3:]))
            at += _SEALED.size
        if flags & HAS_HOUR:
            (self.expiry_hour,) = _HOUR.unpack_from(data, at)
            at += _HOUR.size
        return at
