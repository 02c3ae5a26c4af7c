"""Keys of the partition store: big-endian, so that their order is the order of what they name.

::

    rows    U k 'H'            head
    rows    U k 'S' n          segment, n uint32
    chunks  U k fence          chunk; fence = timestamp_ms + 2^63 uint64, item_id uint64, code uint16
    meta    'S'                state
    meta    'I' o              item ids, o uint32 = the ordinal of the first

U is blake2b-128 of the user id, k the kind (one byte).
"""

import struct

from store.actions import Identity, Kind

STATE_KEY = b"S"
ITEMS_PREFIX = b"I"
HEAD_SUFFIX = b"H"
SEGMENT_SUFFIX = b"S"
USER_HASH_BYTES = 16

_FENCE = struct.Struct(">QQH")
_U32 = struct.Struct(">I")
_SIGN = 1 << 63


def sequence_prefix(user: bytes, kind: Kind) -> bytes:
    """Return ``U k``."""
    return user + bytes([kind])


def head_key(prefix: bytes) -> bytes:
    """Return the key of a head."""
    return prefix + HEAD_SUFFIX


def segment_key(prefix: bytes, number: int) -> bytes:
    """Return the key of a segment."""
    return prefix + SEGMENT_SUFFIX + _U32.pack(number)


def chunk_key(prefix: bytes, fence: Identity) -> bytes:
    """Return the key of a chunk."""
    return prefix + _FENCE.pack(fence.timestamp_ms + _SIGN, fence.item_id, fence.code)


def chunk_fence(key: bytes) -> Identity:
    """Return the fence that a chunk's key holds."""
    timestamp, item_id, code = _FENCE.unpack(key[-_FENCE.size :])
    return Identity(timestamp - _SIGN, item_id, code)


def items_key(first_ordinal: int) -> bytes:
    """Return the key of a record of item ids."""
    return ITEMS_PREFIX + _U32.pack(first_ordinal)


def items_first(key: bytes) -> int:
    """Return the first ordinal of a record of item ids."""
    first: int = _U32.unpack(key[1:])[0]
    return first


def after(prefix: bytes) -> bytes:
    """Return the lowest key above every key that starts with `prefix`."""
    number = int.from_bytes(prefix) + 1
    if number >> (8 * len(prefix)):
        return prefix + b"\xff" * 32
    return number.to_bytes(len(prefix))
