"""Sets of action types as 64-bit masks: the type with id n is bit n - 1."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray


def bits_of(action_types: Iterable[int]) -> int:
    """Return the bit mask of a set of ids."""
    bits = 0
    for action_type in action_types:
        bits |= 1 << (action_type - 1)
    return bits


def ids_of(bits: int) -> list[int]:
    """Return the ids in a bit mask, ascending."""
    return [bit + 1 for bit in range(bits.bit_length()) if bits & (1 << bit)]


def bit_column(action_type: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Return uint64[n]: the bit of each id of uint8[n]."""
    bits: NDArray[np.uint64] = np.uint64(1) << (action_type.astype(np.uint64) - np.uint64(1))
    return bits
