"""Many head records at once, as columns: most sequences of most batches take a few events after their newest.

For them a record of head.py is not made an object: what decides is read from all records of the batch by NumPy,
and the new record is the old one's bytes between four new ones and the events.
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
"""int64[16, 4]: where in a record with these flags each part is, if it is there."""
_INLINE_AT = START.size + _TABLE.sum(axis=1)
_TAIL_AT = START.size + _TABLE[:, 0]
_PADDING = bytes(int(_INLINE_AT.max()) + EVENT_BYTES)


class PackedHeads(NamedTuple):
    """What g records say, int64[g] each but `sound`; the rows of records that are not sound mean nothing."""

    sound: NDArray[np.bool_]
    """bool[g]: Head.unpack would read the record."""
    flags: NDArray[np.uint8]
    """uint8[g]: those of the record."""
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
        """Read records of a partition that has numbered `items` items; never raises, see `sound`."""
        sizes = np.fromiter(map(len, records), np.int64, len(records))
        data = np.frombuffer(b"".join([*records, _PADDING]), np.uint8)
        at = np.cumsum(sizes) - sizes
        version, flags, inline, newest_at = (data[at + n] for n in range(START.size))
        known = (version == VERSION) & (flags < _FLAGS)
        flags = np.where(known, flags, 0)
        inline, newest_at = inline.astype(np.int64), newest_at.astype(np.int64)
        inline_at = _INLINE_AT[flags]
        sound = known & (sizes == inline_at + inline * EVENT_BYTES)
        is_inline = (flags & NEWEST) == 0
        sound &= ~is_inline | (newest_at < inline)
        # From here on every position is inside the record, or at the start of the first one.
        at = np.where(sound, at, 0)
        newest = at + np.where(sound, np.where(is_inline, inline_at + newest_at * EVENT_BYTES, START.size), 0)
        sound &= ~is_inline | (_column(data, newest + 8, "<u4") < items)
        in_segments = np.zeros(len(records), np.int64)
        sealed = np.zeros(len(records), np.int64)
        rows = np.flatnonzero(sound & ((flags & HAS_SEGMENTS) != 0))
        if len(rows):
            part = at[rows] + _PARTS_AT[flags[rows], 1]
            in_segments[rows] = _column(data, part + 2, "<u4")
            segments, runs = data[part], data[part + 1]
            sound[rows] = (segments > 0) & (segments <= in_segments[rows]) & (runs <= segments)
        rows = np.flatnonzero(sound & ((flags & HAS_SEALED) != 0))
        if len(rows):
            sealed[rows] = _column(data, at[rows] + _PARTS_AT[flags[rows], 2], "<u4")
        unsealed = in_segments + inline
        return cls(sound, flags, _column(data, newest, "<i8"), inline, unsealed, unsealed + sealed)

    @property
    def has_hour(self) -> NDArray[np.bool_]:
        """bool[g]: the sequence has an expiry key."""
        has: NDArray[np.bool_] = (self.flags & HAS_HOUR) != 0
        return has

    def starts(self, counts: NDArray[np.int64]) -> bytes:
        """Return the first four bytes of each record once `counts` events, the newest ones, are appended."""
        rows = np.empty((len(counts), START.size), np.uint8)
        rows[:, 0] = VERSION
        rows[:, 1] = self.flags & ~np.uint8(NEWEST)
        rows[:, 2] = self.inline + counts
        rows[:, 3] = rows[:, 2] - 1
        return rows.tobytes()

    def tails(self) -> list[int]:
        """Return where in each record begins what stays when its newest event is an appended one."""
        tails: list[int] = _TAIL_AT[self.flags].tolist()
        return tails


def _column(data: NDArray[np.uint8], at: NDArray[np.int64], dtype: str) -> NDArray[np.int64]:
    """Return int64[g]: the little-endian number at each place, whatever its alignment."""
    wide = np.dtype(dtype)
    taken: NDArray[np.int64] = data[at[:, None] + np.arange(wide.itemsize)].view(wide)[:, 0].astype(np.int64)
    return taken
