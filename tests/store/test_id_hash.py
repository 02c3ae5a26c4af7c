import numpy as np
import pytest

from lifeline.store.id_hash import LEVELS, SEED, HashSeed, hash_ids
from tests.support.id_hashes import seed_of


def test_every_seed_is_another_one_of_odd_numbers() -> None:
    seeds = {SEED, *(HashSeed.draw() for _ in range(50))}
    assert len(seeds) == 51
    for seed in seeds:
        numbers = (seed.mask, seed.first, seed.second, *seed.levels)
        assert len(numbers) == 3 + LEVELS
        assert all(number % 2 == 1 and 0 < number < 1 << 64 for number in numbers)


def test_it_is_what_its_formula_says_and_leaves_the_ids_alone() -> None:
    rng = np.random.default_rng(0)
    ids = np.append(rng.integers(0, 1 << 64, 100, np.uint64), [np.uint64(0), np.uint64((1 << 64) - 1)])
    before, seed = ids.copy(), HashSeed.draw()
    for level in range(LEVELS):
        expected = []
        for value in before.tolist():
            product = value ^ seed.mask
            for factor in (seed.first, seed.second):
                product = product * factor % (1 << 64)
                product ^= product >> 32
            expected.append(product * seed.levels[level] % (1 << 64))
        assert hash_ids(ids, seed, level).tolist() == expected
    assert np.array_equal(ids, before)


@pytest.mark.parametrize("step", [1, 2, 1_000, 1 << 32, 1 << 50, 0x9E3779B97F4A7C15])
def test_ids_in_even_steps_spread_as_random_ones_do(step: int) -> None:
    rng = np.random.default_rng(step % 1_000)
    ids = np.arange(1 << 13, dtype=np.uint64) * np.uint64(step)
    for _ in range(30):
        used = len(np.unique(hash_ids(ids, seed_of(rng), 0) >> np.uint64(64 - 14)))
        # 0.787 of random ones are alone, or the first, in twice as many slots.
        assert 0.76 < used / len(ids) < 0.82
