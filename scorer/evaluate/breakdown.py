"""Breakdowns of lifts by properties of requests."""

import numpy as np
from numpy.typing import NDArray

from lifeline.scorer.evaluate.evaluation import Evaluation
from lifeline.scorer.selection import Source, similarity_of
from lifeline.scorer.train.examples import ExampleSet

NEAR = 0.5
"""The least cosine of a token that counts as the same interest."""
_DAY_MS = 86_400_000


def history_length(examples: ExampleSet) -> NDArray[np.float64]:
    """Return float64[r]: explicit tokens in each request's history, from its context."""
    length: NDArray[np.float64] = np.expm1(10 * examples.context[examples.pair_from[:-1], 4].astype(np.float64))
    return length


def dormancy_days(examples: ExampleSet) -> NDArray[np.float64]:
    """Return float64[r]: days for which the interest that the user acted on was dormant.

    This is the time since the newest selected explicit token near a candidate with an action; of several candidates,
    the longest. NaN if the user acted on no candidate, or if no token is near one.
    """
    days = np.full(len(examples), np.nan)
    for row in range(len(examples)):
        pairs = examples.pairs_of(row)
        pairs = pairs[examples.action_types[pairs] != 0]
        if len(pairs) == 0:
            continue
        tokens = examples.tokens.take(slice(examples.token_from[row], examples.token_from[row + 1]))
        index = examples.index[pairs].astype(np.int64)
        cosine = similarity_of(examples.embedding[pairs], tokens.embedding, index)
        source = examples.source[pairs]
        near = (cosine > NEAR) & (source != Source.IMPRESSION) & (source != Source.NONE)
        if not near.any():
            continue
        age = np.where(near, examples.timestamp_ms[row] - tokens.timestamp_ms[index], np.iinfo(np.int64).max)
        newest = age.min(axis=1)[near.any(axis=1)]
        days[row] = newest.max() / _DAY_MS
    return days


def lift_by(
    column: NDArray[np.float64], ours: list[Evaluation], theirs: list[Evaluation], measure: str, bins: int = 4
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Split requests into bins of equal size by a property; return medians, lifts and standard errors.

    Each is float64[bins]. The lift is the mean difference of a measure over all seeds.
    """
    difference = np.mean(
        [a.measures[measure] - b.measures[measure] for a, b in zip(ours, theirs, strict=True)],
        axis=0,
    )
    usable = np.flatnonzero(~np.isnan(column) & ~np.isnan(difference))
    parts = np.array_split(usable[np.argsort(column[usable], kind="stable")], bins)
    return (
        np.array([np.median(column[part]) for part in parts]),
        np.array([difference[part].mean() for part in parts]),
        np.array([difference[part].std() / np.sqrt(len(part)) for part in parts]),
    )
