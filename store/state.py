"""The state record of a partition.

Little-endian::

version u8 (3) · applied offset i64 · watermark_ms i64 · retained events u64 · fingerprint 16 bytes
"""

import struct
from typing import NamedTuple

from lifeline.store.errors import CorruptRecordError, FormatVersionError

VERSION = 3

_STATE = struct.Struct("<BqqQ16s")


class State(NamedTuple):
    """The state of a partition, written with every batch."""

    applied_offset: int = -1
    """The last offset of the log that is part of the state."""
    watermark_ms: int = 0
    """The newest event time applied. An event counts as no later than its record's time in the log."""
    events: int = 0
    """Retained events of all users."""
    fingerprint: int = 0
    """Sum modulo 2^128 of the retained events' hashes."""

    def pack(self) -> bytes:
        """Return the record's bytes."""
        return _STATE.pack(
            VERSION,
            self.applied_offset,
            self.watermark_ms,
            self.events,
            self.fingerprint.to_bytes(16, "little"),
        )

    @classmethod
    def unpack(cls, data: bytes) -> "State":
        """Read a record; raises FormatVersionError, CorruptRecordError."""
        if data and data[0] != VERSION:
            raise FormatVersionError("the partition", data[0], VERSION)
        if len(data) != _STATE.size:
            raise CorruptRecordError(f"a state record of {len(data)} bytes")
        _, offset, watermark, events, total = _STATE.unpack(data)
        return cls(offset, watermark, events, int.from_bytes(total, "little"))
