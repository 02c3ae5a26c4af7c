"""Evaluation: how well scores rank the candidates of requests with known outcomes, and how two models compare.

Candidates are ranked by the score that serving uses, the sum over heads of utility times probability. HIT@3 of a head
is the share of a request's true actions of that kind among its top three: higher is better, except for heads with a
negative utility. AUC and log-loss are those of a head's own probability. Every measure is a mean over the requests for
which it is defined. It is stored by request, so that two models can be compared on the same requests.
"""

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats

from lifeline.scorer.config import Head
from lifeline.scorer.evaluate.metrics import auc, hit_at
from lifeline.scorer.model import TransAct
from lifeline.scorer.train.examples import Draw, ExampleSet
from lifeline.scorer.train.request import labels

TOP = 3
_PAIRS_AT_ONCE = 256
_RESAMPLES = 2_000
_BINS = 10
_LEAST = 1e-7

Column = NDArray[np.float64]


class Evaluation(NamedTuple):
    """Measures of r requests; NaN if a measure is undefined for a request."""

    user: NDArray[np.int64]
    """int64[r]."""
    measures: Mapping[str, Column]
    """float64[r] by name: `hit_at_3/<head>` and, of a model, `auc/<head>` and `log_loss/<head>`; and over all heads
    with a positive utility `hit_at_3` and `auc`, of the score."""
    probability: NDArray[np.float32] | None
    """float32[p, heads] of all pairs; None for a ranking without probabilities."""

    def mean(self, measure: str) -> float:
        """Return the mean over the requests for which the measure is defined; NaN without one."""
        column = self.measures[measure]
        answered = ~np.isnan(column)
        return float(column[answered].mean()) if answered.any() else float("nan")

    def users(self, measure: str) -> int:
        """Return the number of users with a defined measure."""
        return len(np.unique(self.user[~np.isnan(self.measures[measure])]))


class Difference(NamedTuple):
    """The difference of two evaluations in the mean of a measure."""

    difference: float
    low: float
    """Lower end of the 95 % interval."""
    high: float
    p: float
    """Two-sided: the probability of a difference at least this large if there is none."""


class Reliability(NamedTuple):
    """Predictions of a head and the observed outcomes, by decile of predicted probability, ascending."""

    predicted: Column
    observed: Column
    error: float
    """Expected calibration error: the mean distance of predicted and observed."""


def evaluate(model: TransAct, examples: ExampleSet) -> Evaluation:
    """Evaluate a model on every request."""
    return evaluate_probabilities(examples, probabilities(model, examples), model.config.heads)


def evaluate_probabilities(
    examples: ExampleSet, probability: NDArray[np.float32], heads: tuple[Head, ...]
) -> Evaluation:
    """Evaluate float32[p, heads] probabilities of all pairs."""
    utility = np.array([head.utility for head in heads], np.float32)
    measures = dict(evaluate_ranking(examples, probability @ utility, heads).measures)
    true = labels(examples.action_types, heads) > 0
    for at, head in enumerate(heads):
        own = probability[:, at].astype(np.float64)
        surprise = -np.log(np.clip(np.where(true[:, at], own, 1 - own), _LEAST, 1))
        measures[f"log_loss/{head.name}"] = np.add.reduceat(surprise, examples.pair_from[:-1]) / np.diff(
            examples.pair_from
        )
        measures[f"auc/{head.name}"] = _by_request(examples, own, true[:, at], _auc)
    return Evaluation(examples.user, measures, probability)


def probabilities(model: TransAct, examples: ExampleSet) -> NDArray[np.float32]:
    """Return a model's probabilities of all pairs, float32[p, heads]."""
    draw = Draw(model.config.heads, None, ())
    at_once = max(1, _PAIRS_AT_ONCE // int(np.diff(examples.pair_from).max()))
    batches = []
    with torch.inference_mode():
        for start in range(0, len(examples), at_once):
            rows = np.arange(start, min(len(examples), start + at_once))
            # Unused, because all candidates are taken.
            rngs = [np.random.default_rng(0)] * len(rows)
            batches.append(torch.sigmoid(model(examples.batch(rows, rngs, draw).inputs)).numpy())
    return np.concatenate(batches)


def evaluate_ranking(examples: ExampleSet, score: NDArray[np.floating], heads: tuple[Head, ...]) -> Evaluation:
    """Evaluate a ranking: scores of all pairs, higher first."""
    true: NDArray[np.bool_] = labels(examples.action_types, heads) > 0
    positive = np.logical_or.reduce([true[:, at] for at, head in enumerate(heads) if head.utility > 0])
    measures = {
        f"hit_at_{TOP}": _by_request(examples, score, positive, _hit),
        "auc": _by_request(examples, score, positive, _auc),
    }
    for at, head in enumerate(heads):
        measures[f"hit_at_{TOP}/{head.name}"] = _by_request(examples, score, true[:, at], _hit)
    return Evaluation(examples.user, measures, None)


def summary(evaluation: Evaluation) -> dict[str, float]:
    """Return the mean of every measure that is defined for some request."""
    means = {measure: evaluation.mean(measure) for measure in evaluation.measures}
    return {measure: value for measure, value in means.items() if not np.isnan(value)}


def measures_of(model: TransAct, examples: ExampleSet) -> dict[str, float]:
    """Return the summary of a model and, as `<ranking>_<measure>`, of each ranking of the examples."""
    measures = summary(evaluate(model, examples))
    for name, score in examples.rankings.items():
        ranking = summary(evaluate_ranking(examples, score, model.config.heads))
        measures |= {f"{name}_{measure}": value for measure, value in ranking.items()}
    return measures


def compare(ours: Evaluation, theirs: Evaluation, measure: str, seed: int = 0) -> Difference:
    """Compare on the same requests by a paired bootstrap over users, because requests of a user are dependent."""
    column = ours.measures[measure] - theirs.measures[measure]
    answered = ~np.isnan(column)
    users, place = np.unique(ours.user[answered], return_inverse=True)
    total = np.bincount(place, column[answered], len(users))
    count = np.bincount(place, minlength=len(users)).astype(np.float64)
    if len(users) < 2:
        raise ValueError("fewer than two users have this measure: evaluate on more requests")

    def mean(totals: Column, counts: Column, axis: int) -> Column:
        means: Column = totals.sum(axis=axis) / counts.sum(axis=axis)
        return means

    result = stats.bootstrap(
        (total, count),
        mean,
        paired=True,
        vectorized=True,
        n_resamples=_RESAMPLES,
        batch=100,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    resampled = result.bootstrap_distribution
    # The two-sided p-value of a mean of zero; the observed sample counts as one more resample.
    beyond = 1 + min((resampled <= 0).sum(), (resampled >= 0).sum())
    return Difference(
        float(total.sum() / count.sum()),
        float(result.confidence_interval.low),
        float(result.confidence_interval.high),
        float(min(1.0, 2 * beyond / (len(resampled) + 1))),
    )


def reliability(examples: ExampleSet, evaluation: Evaluation, heads: tuple[Head, ...], head: str) -> Reliability:
    """Return the calibration of a head's probabilities; raises ValueError for an evaluation without probabilities."""
    if evaluation.probability is None:
        raise ValueError("a ranking has no probabilities: evaluate a model")
    at = [candidate.name for candidate in heads].index(head)
    own = evaluation.probability[:, at].astype(np.float64)
    true = labels(examples.action_types, heads)[:, at]
    deciles = np.array_split(np.argsort(own, kind="stable"), _BINS)
    predicted = np.array([own[rows].mean() for rows in deciles])
    observed = np.array([true[rows].mean() for rows in deciles])
    share = np.array([len(rows) for rows in deciles]) / len(own)
    return Reliability(predicted, observed, float(np.abs(predicted - observed) @ share))


def _by_request(
    examples: ExampleSet,
    score: NDArray[np.floating],
    true: NDArray[np.bool_],
    measure: Callable[[NDArray[np.floating], NDArray[np.bool_]], float],
) -> Column:
    bounds = pairwise(examples.pair_from.tolist())
    return np.array([measure(score[begin:end], true[begin:end]) for begin, end in bounds])


def _hit(score: NDArray[np.floating], true: NDArray[np.bool_]) -> float:
    return hit_at(TOP, score, true) if true.any() else float("nan")


def _auc(score: NDArray[np.floating], true: NDArray[np.bool_]) -> float:
    return auc(score, true) if 0 < true.sum() < len(true) else float("nan")
