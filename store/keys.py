"""Keys of a partition's database. Their numbers are big-endian, so that keys sort in the order of these numbers.

::

    rows    u FF k             head
    rows    u FF k n           segment, n uint8
    chunks  u FF k fence       chunk; fence = timestamp_ms + 2^63 uint64, item_id uint64, code uint16
    meta    'C'                retention policy
    meta    'S'                state
    meta    'I' o              item ids, o uint32 = the ordinal of the first
    meta    'X' k h u          expiry: the sequence (u, k) has no event older than hour h, uint32
    meta    'E' u FF o         erasure at offset o, uint64: a scrub of the user's bytes is pending

u is the user id in UTF-8, which never holds the byte FF, so no key of one user is a prefix of another's; k is
the kind (one byte).
"""

import struct

from lifeline.core.actions import Identity

POLICY_KEY = b"C"
STATE_KEY = b"S"
ITEMS_PREFIX = b"I"
EXPIRY_PREFIX = b"X"
ERASURE_PREFIX = b"E"
END_OF_USER = b"\xff"
HOUR_MS = 3_600_000

_FENCE = struct.Struct(">QQH")
_U32 = struct.Struct(">I")
_U64 = struct.Struct(">Q")
_SIGN = 1 << 63
_LAST_HOUR = (1 << 32) - 1


def user_prefix(user_id: bytes) -> bytes:
    """Return ``u FF``, which starts every key of a user in rows and chunks."""
    return user_id + END_OF_USER


def sequence_prefix(user_id: bytes, kind: int) -> bytes:
    """Return ``u FF k``, which is also the key of the head."""
    return user_id + END_OF_USER + bytes((kind,))


def user_of(prefix: bytes) -> bytes:
    """Return the user id of a sequence's prefix."""
    return prefix[:-2]


def kind_of(prefix: bytes) -> int:
    """Return the kind of a sequence's prefix."""
    return prefix[-1]


def is_head(key: bytes) -> bool:
    """Return whether a key of rows belongs to a head; it is then the sequence's prefix."""
    return key[-2:-1] == END_OF_USER


def segment_key(prefix: bytes, number: int) -> bytes:
    """Return the key of a segment."""
    return prefix + bytes((number,))


def chunk_key(prefix: bytes, fence: tuple[int, int, int]) -> bytes:
    """Return the key of a chunk."""
    return prefix + _FENCE.pack(fence[0] + _SIGN, fence[1], fence[2])


def chunk_prefix(key: bytes) -> bytes:
    """Return the sequence's prefix in a chunk's key."""
    return key[: -_FENCE.size]


def chunk_fence(key: bytes) -> Identity:
    """Return the fence that a chunk's key holds."""
    timestamp, item_id, code = _FENCE.unpack(key[-_FENCE.size :])
    return Identity(timestamp - _SIGN, item_id, code)


def chunk_name(fence: tuple[int, int, int]) -> str:
    """Return the name of a chunk in messages, which is made of its fence."""
    return f"chunk {fence[0]}-{fence[1]}-{fence[2]}"


def items_key(first_ordinal: int) -> bytes:
    """Return the key of a record of item ids."""
    return ITEMS_PREFIX + _U32.pack(first_ordinal)


def items_first(key: bytes) -> int:
    """Return the first ordinal of a record of item ids."""
    first: int = _U32.unpack(key[1:])[0]
    return first


def hour_of(timestamp_ms: int) -> int:
    """Return the whole hours since 1970, limited to the range of an expiry key."""
    return min(max(timestamp_ms // HOUR_MS, 0), _LAST_HOUR)


def expiry_key(prefix: bytes, hour: int) -> bytes:
    """Return the expiry key of a sequence."""
    return EXPIRY_PREFIX + prefix[-1:] + _U32.pack(hour) + user_of(prefix)


def expiry_due(kind: int, hour: int) -> tuple[bytes, bytes]:
    """Return the range of expiry keys of a kind that lie before an hour."""
    start = EXPIRY_PREFIX + bytes((kind,))
    return start, start + _U32.pack(hour)


def expiry_prefix(key: bytes) -> bytes:
    """Return the sequence's prefix that an expiry key names."""
    return sequence_prefix(key[6:], key[1])


def erasure_key(user_id: bytes, offset: int) -> bytes:
    """Return the key of a pending erasure."""
    return ERASURE_PREFIX + user_id + END_OF_USER + _U64.pack(offset)


def erased_user(key: bytes) -> bytes:
    """Return the user id that the key of a pending erasure names."""
    return key[len(ERASURE_PREFIX) : -_U64.size - len(END_OF_USER)]


def prefix_end(prefix: bytes) -> bytes:
    """Return the lowest key above every key that starts with `prefix`."""
    number = int.from_bytes(prefix) + 1
    if number >> (8 * len(prefix)):
        return prefix + b"\xff" * 32
    return number.to_bytes(len(prefix))
