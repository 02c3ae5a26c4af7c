"""Item ids whose hashes meet."""

import numpy as np

from lifeline.store.id_hash import LEVELS, HashSeed


def seed_of(rng: np.random.Generator) -> HashSeed:
    """Return a seed as processes draw them, and one that a test can repeat."""
    mask, first, second, *levels = (rng.integers(0, 1 << 64, 3 + LEVELS, np.uint64) | np.uint64(1)).tolist()
    return HashSeed(mask, first, second, tuple(levels))
