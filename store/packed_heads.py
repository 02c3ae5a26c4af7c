"""Many head records at once, as columns, without a `Head` object for each.

Most sequences of a batch only get a few events after their newest one. NumPy reads the fields that decide this from all
records of the batch. A new record is then four new bytes, the rest of the old record, and the new events.
"""

from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from lifeline.store.head import HAS_HOUR, HAS_SEALED, HAS_SEGMENTS, NEWEST, PARTS, START, VERSION
from lifeline.store.segment import EVENT_BYTES

_FLAGS = 1 << len(PARTS)
_TABLE: NDArray[np.int64] = np.array(
    [[part.size * (flags >> n & 1) for n, part in enumerate(PARTS)] for flags in range(_FLAGS)], np.int64
)
_PARTS_AT = START.size + np.cumsum(_TABLE, axis=1) - _TABLE
"""int64[16, 4]: the position of each part in a record, by the record's flags."""
_INLINE_AT = START.size + _TABLE.sum(axis=1)
_TAIL_AT = START.size + _TABLE[:, 0]
_PADDING = bytes(int(_INLINE_AT.max()) + EVENT_BYTES)


class PackedHeads(NamedTuple):
    """Fields of g records; int64[g] unless noted. Values of records that are not `valid` are undefined."""

    valid: NDArray[np.bool_]
    """bool[g]: whether `Head.unpack` would accept the record."""
    flags: NDArray[np.uint8]
    """uint8[g]: the flags of the record."""
    newest_ms: NDArray[np.int64]
    """Timestamp of the newest event."""
    inline: NDArray[np.int64]
    """Inline events."""
    unsealed: NDArray[np.int64]
    """Events in segments and inline."""
    events: NDArray[np.int64]
    """Retained events."""

    @classmethod
    def read(cls, records: list[bytes], items: int) -> Self:
        """Read records of a partition that has `items` items. Never raises; see `valid`."""
        sizes = np.fromiter(map(len, records), np.int64, len(records))
        data = np.frombuffer(b"".join([*records, _PADDING]), np.uint8)
        at = np.cumsum(sizes) - sizes
        version, flags, inline, newest_at = (data[at + n] for n in range(START.size))
        is_supported = (version == VERSION) & (flags < _FLAGS)
        flags = np.where(is_supported, flags, 0)
        inline, newest_at = inline.astype(np.int64), newest_at.astype(np.int64)
        inline_at = _INLINE_AT[flags]
        valid = is_supported & (sizes == inline_at + inline * EVENT_BYTES)
        is_inline = (flags & NEWEST) == 0
        valid &= ~is_inline | (newest_at < inline)
        # From here on every position is inside its record; invalid records use the first record's start.
        at = np.where(valid, at, 0)
        newest = at + np.where(valid, np.where(is_inline, inline_at + newest_at * EVENT_BYTES, START.size), 0)
        valid &= ~is_inline | (_column(data, newest + 8, "<u4") < items)
        in_segments = np.zeros(len(records), np.int64)
        sealed = np.zeros(len(records), np.int64)
        rows = np.flatnonzero(valid & ((flags & HAS_SEGMENTS) != 0))
        if len(rows):
            part = at[rows] + _PARTS_AT[flags[rows], 1]
            in_segments[rows] = _column(data, part + 2, "<u4")
            segments, runs = data[part], data[part + 1]
            valid[rows] = (segments > 0) & (segments <= in_segments[rows]) & (runs <= segments)
        rows = np.flatnonzero(valid & ((flags & HAS_SEALED) != 0))
        if len(rows):
            sealed[rows] = _column(data, at[rows] + _PARTS_AT[flags[rows], 2], "<u4")
        unsealed = in_segments + inline
        return cls(valid, flags, _column(data, newest, "<i8"), inline, unsealed, unsealed + sealed)

    @property
    def has_hour(self) -> NDArray[np.bool_]:
        """bool[g]: whether the sequence has an expiry key."""
        has: NDArray[np.bool_] = (self.flags & HAS_HOUR) != 0
        return has

    def starts(self, counts: NDArray[np.int64]) -> bytes:
        """Return the first four bytes of each record after `counts` newest events are appended to it."""
        rows = np.empty((len(counts), START.size), np.uint8)
        rows[:, 0] = VERSION
        rows[:, 1] = self.flags & ~np.uint8(NEWEST)
        rows[:, 2] = self.inline + counts
        rows[:, 3] = rows[:, 2] - 1
        return rows.tobytes()

    def tails(self) -> list[int]:
        """Return the start of the part of each record that an append keeps."""
        tails: list[int] = _TAIL_AT[self.flags].tolist()
        return tails


def _column(data: NDArray[np.uint8], at: NDArray[np.int64], dtype: str) -> NDArray[np.int64]:
    """Return int64[g]: the little-endian number at each position; no alignment is needed."""
    wide = np.dtype(dtype)
    values: NDArray[np.int64] = data[at[:, None] + np.arange(wide.itemsize)].view(wide)[:, 0].astype(np.int64)
    return values
