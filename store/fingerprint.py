"""The fingerprint: a sum, modulo 2^128, of one 128-bit hash for each retained event.

A sum does not depend on the order of arrival, so equal sets of events have equal fingerprints. An insert adds to it and
a trim subtracts from it, so updating it never requires reading a history.

The hash of an event is MurmurHash3_x64_128 (Austin Appleby's public-domain algorithm) with seed 0 of the 48
bytes (little-endian)::

    user 16  XXH3-128 of the user id's UTF-8, big-endian as xxHash's canonical form is
    ts    8  timestamp_ms, int64
    item  8  item_id, uint64      (the id, never the ordinal: two copies may number items differently)
    kind  8  uint64
    code  8  uint64, action_type << 8 | surface

The number is ``h1 | h2 << 64``.
"""

import numpy as np
import xxhash
from numpy.typing import NDArray

U64 = NDArray[np.uint64]

_C1 = np.uint64(0x87C37B91114253D5)
_C2 = np.uint64(0x4CF5AD432745937F)
_FMIX1 = np.uint64(0xFF51AFD7ED558CCD)
_FMIX2 = np.uint64(0xC4CEB9FE1A85EC53)
_ADD1 = np.uint64(0x52DCE729)
_ADD2 = np.uint64(0x38495AB5)
_FIVE = np.uint64(5)
_LENGTH = np.uint64(48)
_MODULUS = 1 << 128


def user_hash(user_id: bytes) -> bytes:
    """Return the 16-byte XXH3-128 of a user id's UTF-8, in its canonical byte order."""
    return xxhash.xxh3_128_digest(user_id)


def event_hashes(
    users: U64,
    timestamp_ms: NDArray[np.int64],
    item_id: U64,
    kind: NDArray[np.uint8],
    code: NDArray[np.uint16],
) -> tuple[U64, U64]:
    """Return the hash of each event as (h1, h2), uint64[n] each.

    `users` is uint64[n, 2]: each user hash read as two little-endian words.
    """
    h1 = np.zeros(len(timestamp_ms), np.uint64)
    h2 = np.zeros(len(timestamp_ms), np.uint64)
    blocks = (
        (users[:, 0], users[:, 1]),
        (timestamp_ms.view(np.uint64), item_id),
        (kind.astype(np.uint64), code.astype(np.uint64)),
    )
    for k1, k2 in blocks:
        h1 ^= _rotate(k1 * _C1, 31) * _C2
        h1 = (_rotate(h1, 27) + h2) * _FIVE + _ADD1
        h2 ^= _rotate(k2 * _C2, 33) * _C1
        h2 = (_rotate(h2, 31) + h1) * _FIVE + _ADD2
    h1 ^= _LENGTH
    h2 ^= _LENGTH
    h1 += h2
    h2 += h1
    h1, h2 = _finish(h1), _finish(h2)
    h1 += h2
    h2 += h1
    return h1, h2


def total(h1: U64, h2: U64) -> int:
    """Return the sum of hashes modulo 2^128."""
    return (_sum(h1) + (_sum(h2) << 64)) % _MODULUS


def add(fingerprint: int, amount: int) -> int:
    """Return ``fingerprint + amount`` modulo 2^128; a negative amount subtracts."""
    return (fingerprint + amount) % _MODULUS


def as_text(fingerprint: int) -> str:
    """Return the fingerprint as 32 hexadecimal digits."""
    return f"{fingerprint:032x}"


def _rotate(x: U64, bits: int) -> U64:
    return (x << np.uint64(bits)) | (x >> np.uint64(64 - bits))


def _finish(k: U64) -> U64:
    k = (k ^ (k >> np.uint64(33))) * _FMIX1
    k = (k ^ (k >> np.uint64(33))) * _FMIX2
    return k ^ (k >> np.uint64(33))


def _sum(words: U64) -> int:
    # Sum the two halves of the words separately: sums of fewer than 2^32 halves fit in 64 bits.
    low = int((words & np.uint64(0xFFFFFFFF)).sum(dtype=np.uint64))
    return low + (int((words >> np.uint64(32)).sum(dtype=np.uint64)) << 32)
