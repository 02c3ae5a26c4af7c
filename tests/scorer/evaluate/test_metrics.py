import numpy as np
import pytest

from lifeline.scorer.evaluate.metrics import auc, hit_at

RNG = np.random.default_rng(0)


def test_auc_counts_pairs_and_ties_for_half() -> None:
    score = np.array([3.0, 2.0, 2.0, 1.0])
    true = np.array([True, False, True, False])
    # Pairs: 3>2, 3>1, 2=2, 2>1.
    assert auc(score, true) == pytest.approx(3.5 / 4)
    assert auc(-score, true) == pytest.approx(0.5 / 4)
    assert auc(score, np.zeros(4, np.bool_)) == 0.5


def test_hit_at_equals_the_average_over_random_orders_of_ties() -> None:
    score = RNG.integers(0, 3, 8).astype(np.float64)
    true = RNG.random(8) < 0.5
    hits = []
    for _ in range(20_000):
        order = np.lexsort((RNG.random(8), -score))
        hits.append(true[order[:3]].sum() / true.sum())
    assert hit_at(3, score, true) == pytest.approx(np.mean(hits), abs=0.01)


def test_hit_at_without_a_true_candidate_is_zero() -> None:
    assert hit_at(3, np.ones(4), np.zeros(4, np.bool_)) == 0
