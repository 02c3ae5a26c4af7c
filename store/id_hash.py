"""The hash of item ids, of another seed in each process: who chooses ids cannot choose which of them meet.

    h_k(id) = fold(fold((id ^ mask) * first) * second) * level_k,    fold(x) = x ^ (x >> 32),    modulo 2**64

The multipliers are odd numbers that nobody outside the process knows, and a table of 2**b slots takes the upper b
bits. Any two ids meet in it with a chance of at most 2 in 2**b (Dietzfelbinger et al., 1997), in each level k by
another chance. For pairs one product would do, but it crowds ids in even steps under some of the seeds: the folds
break the steps. scorer/kernels/src/tokens.cpp folds a product of 128 bits instead, once.

Nothing that is stored or answered depends on the seed.
"""

import secrets
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

LEVELS = 5


class HashSeed(NamedTuple):
    """Numbers of 64 bits, odd."""

    mask: int
    first: int
    second: int
    levels: tuple[int, ...]
    """LEVELS of them."""

    @classmethod
    def draw(cls) -> Self:
        """Return a seed that nobody can foretell."""
        mask, first, second, *levels = (secrets.randbits(64) | 1 for _ in range(3 + LEVELS))
        return cls(mask, first, second, tuple(levels))


SEED = HashSeed.draw()
"""That of this process."""


def hashed(ids: NDArray[np.uint64], seed: HashSeed, level: int) -> NDArray[np.uint64]:
    """Return uint64[n]: the hash of uint64[n] ids in a level. The array is the caller's."""
    product = ids ^ np.uint64(seed.mask)
    product *= np.uint64(seed.first)
    for factor in (seed.second, seed.levels[level]):
        product ^= product >> np.uint64(32)
        product *= np.uint64(factor)
    return product
