"""The partitioner: the default of Kafka's Java client, used by producers, nodes and clients.

A key's partition is ``(murmur2(key) & 0x7fffffff) % partitions``, where murmur2 is Austin Appleby's
MurmurHash2 (32 bit, little-endian) with the seed that Kafka's Java client fixes.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

SEED = 0x9747B28C
MULTIPLIER = 0x5BD1E995
_MASK = 0xFFFFFFFF


def murmur2(data: bytes) -> int:
    """Return the 32-bit hash of `data`, 0 to 2**32 - 1."""
    whole = len(data) & ~3
    h = SEED ^ len(data)
    for at in range(0, whole, 4):
        k = int.from_bytes(data[at : at + 4], "little") * MULTIPLIER & _MASK
        k = (k ^ k >> 24) * MULTIPLIER & _MASK
        h = (h * MULTIPLIER & _MASK) ^ k
    if whole < len(data):
        h = (h ^ int.from_bytes(data[whole:], "little")) * MULTIPLIER & _MASK
    h = (h ^ h >> 13) * MULTIPLIER & _MASK
    return h ^ h >> 15


def partition_of(key: bytes, partitions: int) -> int:
    """Return the partition, 0 to partitions - 1, that a record with `key` belongs to."""
    return (murmur2(key) & 0x7FFFFFFF) % partitions


def partitions_of(keys: Sequence[bytes], partitions: int) -> NDArray[np.int32]:
    """Return `partition_of` of every key, int32[n], vectorized.

    The work is proportional to n times the longest key, so callers bound the length of a key.
    """
    if not keys:
        return np.empty(0, np.int32)
    length = np.fromiter(map(len, keys), np.uint32, len(keys))
    width = int(length.max()) + 3 & ~3
    words = np.array(keys, dtype=f"S{max(width, 4)}").view("<u4").reshape(len(keys), -1)
    multiplier = np.uint32(MULTIPLIER)
    h = np.uint32(SEED) ^ length
    for column in range(width // 4):
        remaining = length.astype(np.int64) - 4 * column
        k = words[:, column] * multiplier
        k = (k ^ k >> np.uint32(24)) * multiplier
        # NumPy pads a key with zero bytes, so a last word of 1 to 3 bytes already has the value that the hash needs.
        tail = (h ^ words[:, column]) * multiplier
        h = np.where(remaining >= 4, h * multiplier ^ k, np.where(remaining > 0, tail, h))
    h = (h ^ h >> np.uint32(13)) * multiplier
    h ^= h >> np.uint32(15)
    return ((h & np.uint32(0x7FFFFFFF)) % np.uint32(partitions)).astype(np.int32)
