"""Ranking metrics of one request. Ties count as the expectation over random orders."""

import numpy as np
from numpy.typing import NDArray


def auc(score: NDArray[np.floating], true: NDArray[np.bool_]) -> float:
    """Return the share of (true, other) pairs in the right order; 0.5 without a pair."""
    ahead, behind = score[true][:, np.newaxis], score[~true]
    if ahead.size == 0 or behind.size == 0:
        return 0.5
    return float(np.mean(ahead > behind) + 0.5 * np.mean(ahead == behind))


def hit_at(top: int, score: NDArray[np.floating], true: NDArray[np.bool_]) -> float:
    """Return the share of the true candidates among the `top` highest; 0 without a true candidate."""
    if not true.any():
        return 0.0
    above = (score > score[true][:, np.newaxis]).sum(axis=1)
    tied = (score == score[true][:, np.newaxis]).sum(axis=1)
    return float(np.clip((top - above) / tied, 0, 1).mean())
