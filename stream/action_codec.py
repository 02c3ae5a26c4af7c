"""Actions as they lie on the wire, read into columns: a batch of values at once, and no object for any of them.

It reads what serialisers write, the fields of `lifeline.v1.Action` in ascending order, each once at most::

    0A len user_id | 11 item_id, 8 bytes | 18 varint timestamp_ms | 20 varint action_type | 28 varint surface
    | 32 len event_id

Whatever else is valid protobuf (another order, unknown fields, schema-registry framing, negative or very large numbers,
text beyond ASCII), and whatever is not valid at all, is left to the library, value by value: `read` says which. What is
read here is what the library reads.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from lifeline.core.user_ids import MAX_USER_ID_BYTES

_USER_ID, _ITEM_ID, _TIMESTAMP_MS, _ACTION_TYPE, _SURFACE, _EVENT_ID = 0x0A, 0x11, 0x18, 0x20, 0x28, 0x32
_MORE = 0x80
# The longest look ahead from within a value: a tag and a varint of nine bytes.
_AHEAD = 16


class ActionColumns(NamedTuple):
    """n actions; a row that is not `read` holds nothing of use."""

    read: NDArray[np.bool_]
    """bool[n]: whether the row was read, and its user id is the key."""
    item_id: NDArray[np.uint64]
    """uint64[n]."""
    timestamp_ms: NDArray[np.int64]
    """int64[n]."""
    action_type: NDArray[np.uint32]
    """uint32[n]."""
    surface: NDArray[np.uint32]
    """uint32[n]."""


class _Cursor:
    """A position in each value, which moves past a field where the value has it."""

    def __init__(self, values: Sequence[bytes], ahead: int) -> None:
        """`ahead` is how many bytes may be looked at from any place."""
        lengths = np.fromiter(map(len, values), np.int64, len(values))
        self.data = np.frombuffer(b"".join((*values, bytes(ahead))), np.uint8)
        self.end = np.cumsum(lengths)
        self.at = self.end - lengths
        self.good = np.ones(len(values), np.bool_)
        self._last = len(self.data) - ahead

    def _has(self, tag: int) -> NDArray[np.bool_]:
        found: NDArray[np.bool_] = (self.data[self.at] == tag) & (self.at < self.end)
        return found

    def _move(self, to: NDArray[np.int64]) -> None:
        # A row that is wrong must not look beyond the end of everything.
        self.good &= to <= self.end
        self.at = np.minimum(to, self._last)

    def bytes_at(self, at: NDArray[np.int64], count: int) -> NDArray[np.uint8]:
        """Return uint8[n, count]: what stands at each place."""
        # Rows of a view of all windows are copied whole, which is several times faster than byte by byte.
        found: NDArray[np.uint8] = sliding_window_view(self.data, count)[at]
        return found

    def varint(self, tag: int, most: int) -> NDArray[np.uint64]:
        """Read a number of at most `most` bytes; 0 where the value lacks it."""
        has, raw = self._has(tag), self.bytes_at(self.at + 1, most)
        more = raw >= _MORE
        size = np.argmin(more, axis=1) + 1
        self.good &= ~(has & more.all(axis=1))
        inside = np.arange(most) < size[:, None]
        parts = np.where(inside, raw & np.uint8(_MORE - 1), 0).astype(np.uint64)
        number = np.bitwise_or.reduce(parts << (np.uint64(7) * np.arange(most, dtype=np.uint64)), axis=1)
        self._move(np.where(has, self.at + 1 + size, self.at))
        return np.where(has, number, np.uint64(0))

    def fixed64(self, tag: int) -> NDArray[np.uint64]:
        """Read 8 little-endian bytes; 0 where the value lacks them."""
        has = self._has(tag)
        number = self.bytes_at(self.at + 1, 8).view("<u8").ravel()
        self._move(np.where(has, self.at + 9, self.at))
        return np.where(has, number, np.uint64(0)).astype(np.uint64)

    def text(self, tag: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Pass over a text; return where it starts and ends, the same place where the value lacks it."""
        has = self._has(tag)
        if not has.any():
            return self.at, self.at
        raw = self.bytes_at(self.at + 1, 2).astype(np.int64)
        long = raw[:, 0] >= _MORE
        self.good &= ~(has & long & (raw[:, 1] >= _MORE))
        size = np.where(long, (raw[:, 0] & 0x7F) | (raw[:, 1] << 7), raw[:, 0])
        start = np.where(has, self.at + 2 + long, self.at)
        end = np.where(has, start + size, start)
        self._move(end)
        return np.minimum(start, self._last), np.minimum(end, self._last)


def read(keys: Sequence[bytes], values: Sequence[bytes]) -> ActionColumns:
    """Read n values and compare each user id with its record's key; n is at least one."""
    width = min(max(map(len, keys)), MAX_USER_ID_BYTES)
    cursor = _Cursor(values, max(width, _AHEAD))
    _compare(cursor, keys, width)
    item_id = cursor.fixed64(_ITEM_ID)
    # Nine bytes hold what is not negative.
    timestamp_ms = cursor.varint(_TIMESTAMP_MS, 9).astype(np.int64)
    action_type = cursor.varint(_ACTION_TYPE, 2).astype(np.uint32)
    surface = cursor.varint(_SURFACE, 2).astype(np.uint32)
    _check_ascii(cursor, *cursor.text(_EVENT_ID))
    cursor.good &= cursor.at == cursor.end
    return ActionColumns(cursor.good, item_id, timestamp_ms, action_type, surface)


def _compare(cursor: _Cursor, keys: Sequence[bytes], width: int) -> None:
    """Pass over the user ids, and leave good the rows alone whose user id is the key, ASCII, and not empty."""
    start, end = cursor.text(_USER_ID)
    lengths = np.fromiter(map(len, keys), np.int64, len(keys))
    cursor.good &= (end - start == lengths) & (lengths > 0) & (lengths <= width)
    if width == 0:
        return
    wanted = np.array(keys, f"S{width}").view(np.uint8).reshape(len(keys), width)
    same = cursor.bytes_at(start, width) == wanted
    same |= np.arange(width) >= lengths[:, None]
    cursor.good &= same.all(axis=1)
    if (wanted >= _MORE).any():
        cursor.good &= ~(wanted >= _MORE).any(axis=1)


def _check_ascii(cursor: _Cursor, start: NDArray[np.int64], end: NDArray[np.int64]) -> None:
    """Leave good the rows alone whose text is ASCII: the library is strict about the rest."""
    if not (end > start).any():
        return
    beyond = np.zeros(len(cursor.data) + 1, np.int64)
    np.cumsum(cursor.data >= _MORE, out=beyond[1:])
    cursor.good &= beyond[end] == beyond[start]
