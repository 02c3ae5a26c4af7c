"""Chunks that are damaged on purpose."""

import random
import struct

import xxhash


def human(
    rng: random.Random, n: int, steps: tuple[int, ...] = (0, 900, 4_000, 86_400_000)
) -> list[tuple[int, int, int]]:
    """Return n events as people make them: bursts, a few types, many items."""
    at, rows = 1_600_000_000_000, []
    for _ in range(n):
        at += rng.choice(steps)
        rows.append((at, rng.randrange(50_000), rng.randrange(1, 6) << 8 | rng.randrange(4)))
    return sorted(rows)


def signed(data: bytes) -> bytes:
    """Return a chunk with the checksum that its bytes ask for."""
    return data[:24] + struct.pack("<Q", xxhash.xxh3_64_intdigest(data[:24] + data[32:])) + data[32:]


def mutated(rng: random.Random, source: bytes, other: bytes) -> bytes:
    """Return `source` with one of the many things that can happen to bytes."""
    data = bytearray(source)
    at = rng.randrange(len(data))
    until = min(len(data), at + rng.randrange(1, 64))
    match rng.randrange(9):
        case 0 | 1:
            data[at] ^= 1 << rng.randrange(8)
        case 2:
            for _ in range(rng.randrange(1, 9)):
                data[rng.randrange(len(data))] = rng.randrange(256)
        case 3:
            del data[at:]
        case 4:
            del data[at:until]
        case 5:
            data[at:at] = rng.randbytes(rng.randrange(1, 40))
        case 6:
            # Two ranges change places.
            to = rng.randrange(len(data))
            data[at:until], data[to : to + until - at] = data[to : to + until - at], data[at:until]
        case 7:
            data[at:until] = bytes(until - at)
        case _:
            # The rest of another chunk.
            data[at:] = other[at:]
    return bytes(data)
