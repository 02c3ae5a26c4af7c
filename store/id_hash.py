"""A hash of item ids with a secret seed for each process, so that nobody can choose ids that collide.

    h_k(id) = fold(fold((id ^ mask) * first) * second) * level_k,    fold(x) = x ^ (x >> 32),    modulo 2**64

The multipliers are odd random numbers, and a table of 2**b slots uses the upper b bits. Any two ids collide with a
probability of at most 2 / 2**b (Dietzfelbinger et al., 1997), independently in each level k. One product would be
enough for this bound, but under some seeds it clusters ids that lie at equal distances; the folds prevent that.
scorer/kernels/src/tokens.cpp folds one 128-bit product instead.

No stored byte and no reply depends on the seed.
"""

import secrets
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

LEVELS = 5


class HashSeed(NamedTuple):
    """Odd 64-bit numbers."""

    mask: int
    first: int
    second: int
    levels: tuple[int, ...]
    """LEVELS of them."""

    @classmethod
    def draw(cls) -> Self:
        """Return a seed from the system's secure random source."""
        mask, first, second, *levels = (secrets.randbits(64) | 1 for _ in range(3 + LEVELS))
        return cls(mask, first, second, tuple(levels))


SEED = HashSeed.draw()
"""The seed of this process."""


def hash_ids(ids: NDArray[np.uint64], seed: HashSeed, level: int) -> NDArray[np.uint64]:
    """Return uint64[n], a new array: the hash of uint64[n] ids for a level."""
    product = ids ^ np.uint64(seed.mask)
    product *= np.uint64(seed.first)
    for factor in (seed.second, seed.levels[level]):
        product ^= product >> np.uint64(32)
        product *= np.uint64(factor)
    return product
