"""Parses the serialized actions of a whole batch into columns, without an object for each action.

It parses the form that serializers write: the fields of `lifeline.v1.Action` in ascending order, each at most once::

    0A len user_id | 11 item_id, 8 bytes | 18 varint timestamp_ms | 20 varint action_type | 28 varint surface
    | 32 len event_id

All other values, valid or not (another order, unknown fields, schema-registry framing, negative or very large numbers,
text beyond ASCII), are left to the protobuf library: their `ActionColumns.is_parsed` is False. For the values that it
parses, this module gives the same result as the library.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from lifeline.core.user_ids import MAX_USER_ID_BYTES

_USER_ID, _ITEM_ID, _TIMESTAMP_MS, _ACTION_TYPE, _SURFACE, _EVENT_ID = 0x0A, 0x11, 0x18, 0x20, 0x28, 0x32
_CONTINUATION_BIT = 0x80
_NON_ASCII = 0x80
# The most that a field reads beyond its position: a tag and a varint of nine bytes, rounded up.
_LOOKAHEAD_BYTES = 16


class ActionColumns(NamedTuple):
    """n actions, one row for each; the values of a row that is not `is_parsed` are undefined."""

    is_parsed: NDArray[np.bool_]
    """bool[n]: whether the row was parsed, and its user id equals the record's key."""
    item_id: NDArray[np.uint64]
    """uint64[n]."""
    timestamp_ms: NDArray[np.int64]
    """int64[n]."""
    action_type: NDArray[np.uint32]
    """uint32[n]."""
    surface: NDArray[np.uint32]
    """uint32[n]."""


class _Cursor:
    """A read position in each value. A method reads one field of all values, and moves past it where it is present."""

    def __init__(self, values: Sequence[bytes], lookahead: int) -> None:
        """Start at the first byte of each value; up to `lookahead` bytes may be read from any position."""
        lengths = np.fromiter(map(len, values), np.int64, len(values))
        self.data = np.frombuffer(b"".join((*values, bytes(lookahead))), np.uint8)
        self.end = np.cumsum(lengths)
        self.position = self.end - lengths
        self.is_valid = np.ones(len(values), np.bool_)
        self._max_position = len(self.data) - lookahead

    def _has(self, tag: int) -> NDArray[np.bool_]:
        is_present: NDArray[np.bool_] = (self.data[self.position] == tag) & (self.position < self.end)
        return is_present

    def _move(self, position: NDArray[np.int64]) -> None:
        # An invalid row must not read beyond the end of the buffer.
        self.is_valid &= position <= self.end
        self.position = np.minimum(position, self._max_position)

    def bytes_at(self, position: NDArray[np.int64], count: int) -> NDArray[np.uint8]:
        """Return the bytes at each position, uint8[n, count]."""
        # Copying rows of a sliding window view is several times faster than indexing single bytes.
        rows: NDArray[np.uint8] = sliding_window_view(self.data, count)[position]
        return rows

    def varint(self, tag: int, max_bytes: int) -> NDArray[np.uint64]:
        """Read a number of at most `max_bytes` bytes; 0 where the field is absent."""
        is_present, raw = self._has(tag), self.bytes_at(self.position + 1, max_bytes)
        continues = raw >= _CONTINUATION_BIT
        size = np.argmin(continues, axis=1) + 1
        self.is_valid &= ~(is_present & continues.all(axis=1))
        is_inside = np.arange(max_bytes) < size[:, None]
        groups = np.where(is_inside, raw & np.uint8(_CONTINUATION_BIT - 1), 0).astype(np.uint64)
        number = np.bitwise_or.reduce(groups << (np.uint64(7) * np.arange(max_bytes, dtype=np.uint64)), axis=1)
        self._move(np.where(is_present, self.position + 1 + size, self.position))
        return np.where(is_present, number, np.uint64(0))

    def fixed64(self, tag: int) -> NDArray[np.uint64]:
        """Read 8 little-endian bytes; 0 where the field is absent."""
        is_present = self._has(tag)
        number = self.bytes_at(self.position + 1, 8).view("<u8").ravel()
        self._move(np.where(is_present, self.position + 9, self.position))
        return np.where(is_present, number, np.uint64(0)).astype(np.uint64)

    def text(self, tag: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Skip a text, and return its start and end in `data`; the two are equal where the field is absent."""
        is_present = self._has(tag)
        if not is_present.any():
            return self.position, self.position
        raw = self.bytes_at(self.position + 1, 2).astype(np.int64)
        has_long_size = raw[:, 0] >= _CONTINUATION_BIT
        self.is_valid &= ~(is_present & has_long_size & (raw[:, 1] >= _CONTINUATION_BIT))
        size = np.where(has_long_size, (raw[:, 0] & 0x7F) | (raw[:, 1] << 7), raw[:, 0])
        start = np.where(is_present, self.position + 2 + has_long_size, self.position)
        end = np.where(is_present, start + size, start)
        self._move(end)
        return np.minimum(start, self._max_position), np.minimum(end, self._max_position)


def parse_actions(keys: Sequence[bytes], values: Sequence[bytes]) -> ActionColumns:
    """Parse n values, at least one, and compare each user id with the key of its record."""
    width = min(max(map(len, keys)), MAX_USER_ID_BYTES)
    cursor = _Cursor(values, max(width, _LOOKAHEAD_BYTES))
    _check_user_ids(cursor, keys, width)
    item_id = cursor.fixed64(_ITEM_ID)
    # A number that is not negative has at most nine bytes.
    timestamp_ms = cursor.varint(_TIMESTAMP_MS, 9).astype(np.int64)
    action_type = cursor.varint(_ACTION_TYPE, 2).astype(np.uint32)
    surface = cursor.varint(_SURFACE, 2).astype(np.uint32)
    _check_ascii(cursor, *cursor.text(_EVENT_ID))
    cursor.is_valid &= cursor.position == cursor.end
    return ActionColumns(cursor.is_valid, item_id, timestamp_ms, action_type, surface)


def _check_user_ids(cursor: _Cursor, keys: Sequence[bytes], width: int) -> None:
    """Skip the user ids; a row stays valid only if its user id equals the key, is ASCII, and is not empty."""
    start, end = cursor.text(_USER_ID)
    lengths = np.fromiter(map(len, keys), np.int64, len(keys))
    cursor.is_valid &= (end - start == lengths) & (lengths > 0) & (lengths <= width)
    if width == 0:
        return
    key_bytes = np.array(keys, f"S{width}").view(np.uint8).reshape(len(keys), width)
    is_equal = cursor.bytes_at(start, width) == key_bytes
    is_equal |= np.arange(width) >= lengths[:, None]
    cursor.is_valid &= is_equal.all(axis=1)
    if (key_bytes >= _NON_ASCII).any():
        cursor.is_valid &= ~(key_bytes >= _NON_ASCII).any(axis=1)


def _check_ascii(cursor: _Cursor, start: NDArray[np.int64], end: NDArray[np.int64]) -> None:
    """Let a row stay valid only if its text is ASCII: the library checks the encoding of the others."""
    if not (end > start).any():
        return
    non_ascii = np.zeros(len(cursor.data) + 1, np.int64)
    np.cumsum(cursor.data >= _NON_ASCII, out=non_ascii[1:])
    cursor.is_valid &= non_ascii[end] == non_ascii[start]
