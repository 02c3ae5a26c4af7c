"""Whoever publishes items of ids of their own choosing costs a node no more than others do."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from lifeline.scorer.kernels import tokens as kernels
from lifeline.scorer.kernels.instruction_set import InstructionSet, best
from lifeline.store import id_index
from lifeline.store.id_hash import LEVELS, HashSeed
from lifeline.store.id_index import IdIndex
from tests.support.id_hashes import seed_of
from tests.support.id_index import MEETING

COUNT = 8_000
needs_kernels = pytest.mark.skipif(best() is InstructionSet.NONE, reason="not built")


def drawn(count: int) -> list[HashSeed]:
    rng = np.random.default_rng(0)
    return [seed_of(rng) for _ in range(count)]


def crafted(multiplier: int) -> NDArray[np.uint64]:
    """Return ids whose products with a multiplier are 0, 1, 2, ...: they meet in whatever their upper bits choose."""
    return np.arange(COUNT, dtype=np.uint64) * np.uint64(pow(multiplier, -1, 1 << 64))


def shifted(bits: int) -> NDArray[np.uint64]:
    return np.arange(COUNT, dtype=np.uint64) << np.uint64(bits)


GOLDEN = 0x9E3779B97F4A7C15
KNOWN = HashSeed(0, 1, 1, (1,) * LEVELS)
"""A seed that an attacker knows: small numbers meet."""


def random_ids() -> NDArray[np.uint64]:
    return np.random.default_rng(1).integers(0, 1 << 64, COUNT, np.uint64)


@needs_kernels
def test_ids_that_meet_under_one_seed_are_parted_by_any_other() -> None:
    assert kernels.probes(crafted(1), KNOWN) == COUNT * (COUNT - 1) // 2
    for seed in drawn(20):
        usual = kernels.probes(random_ids(), seed)
        assert 0 < usual < COUNT
        for ids in (crafted(1), crafted(GOLDEN), shifted(50), shifted(32)):
            assert kernels.probes(ids, seed) < 2 * usual


def looks(work: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> int:
    """Return at how many slots an index looks while it works."""
    looked = 0
    real = id_index._slots

    def slots(ids: NDArray[np.uint64], size: int, seed: HashSeed, step: int) -> NDArray[np.int64]:
        nonlocal looked
        looked += len(ids)
        return real(ids, size, seed, step)

    with monkeypatch.context() as patch:
        patch.setattr(id_index, "_slots", slots)
        work()
    return looked


def test_an_index_looks_for_crafted_ids_no_longer_than_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def cost(ids: NDArray[np.uint64], seed: HashSeed) -> int:
        index = IdIndex(seed=seed)

        def fill() -> None:
            for at in range(0, len(ids), 1_000):
                index.add(ids[at : at + 1_000])
            index.find(ids)

        return looks(fill, monkeypatch)

    few = np.arange(1_500, dtype=np.uint64)
    with monkeypatch.context() as patch:
        patch.setattr(id_index, "_FIBONACCI", 1)
        # They meet in level 0; in the others by a seed that is known, and not by one that is drawn.
        usual = cost(random_ids()[:1_500], drawn(1)[0])
        assert cost(few, MEETING) > 100 * usual
        assert cost(few, drawn(1)[0]) < 2.2 * usual
    for seed in drawn(10):
        usual = cost(random_ids(), seed)
        for ids in (crafted(1), crafted(GOLDEN), shifted(50)):
            assert cost(ids, seed) < 2.2 * usual


@needs_kernels
def test_tokens_do_not_depend_on_the_seed() -> None:
    rng = np.random.default_rng(2)

    def events(count: int) -> kernels.EventColumns:
        return kernels.EventColumns(
            np.sort(rng.integers(0, 10**6, count)),
            rng.integers(0, 300, count).astype(np.uint64) * np.uint64(GOLDEN),
            rng.integers(1, 65, count).astype(np.uint8),
        )

    shown, acted = events(3_000), events(2_000)
    asked = np.append(shown.item_id[:400], np.uint64(5))

    def answer(seed: HashSeed) -> list[list[int]]:
        arrays = (
            *kernels.merge(shown, 500, seed),
            kernels.engaged(shown, acted, 500, seed),
            kernels.last_touch(acted.item_id, asked, seed),
        )
        return [array.tolist() for array in arrays]

    expected = answer(MEETING)
    assert any(any(row) for row in expected[2:])
    for seed in drawn(10):
        assert answer(seed) == expected


def test_ordinals_do_not_depend_on_the_seed() -> None:
    ids = np.random.default_rng(3).integers(0, 2_000, 5_000, np.uint64)
    expected = IdIndex(seed=MEETING).add(ids)
    for seed in drawn(10):
        index = IdIndex(seed=seed)
        assert np.array_equal(index.add(ids), expected)
        assert np.array_equal(index.find(ids), expected)
