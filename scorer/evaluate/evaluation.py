"""Evaluation: how well scores rank the candidates of requests whose outcome is known, and whether one beats another.

Candidates are ranked by the score that serving gives, the sum over heads of utility times probability. HIT@3 of a head
is the share of a request's true actions of that kind among its top three: higher is better, but for a head with a
negative utility. AUC and log-loss are of a head's own probability. Every figure is a mean over the requests that have
an answer, and is kept by request, so that two models can be compared on the same ones.
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
    """What was measured on r requests; NaN where a request has no answer."""

    user: NDArray[np.int64]
    """int64[r]."""
    measures: Mapping[str, Column]
    """float64[r] by name: `hit_at_3/<head>` and, of a model, `auc/<head>` and `log_loss/<head>`; and over all heads
    with a positive utility `hit_at_3` and `auc`, of the score."""
    probability: NDArray[np.float32] | None
    """float32[p, heads] of all pairs; None of a mere ranking."""

    def mean(self, measure: str) -> float:
        """Return the mean over the requests that have an answer; NaN without one."""
        column = self.measures[measure]
        answered = ~np.isnan(column)
        return float(column[answered].mean()) if answered.any() else float("nan")

    def users(self, measure: str) -> int:
        """Return how many users have an answer."""
        return len(np.unique(self.user[~np.isnan(self.measures[measure])]))


class Difference(NamedTuple):
    """How much better one is than another, in the mean of a measure."""

    difference: float
    low: float
    """Of the 95 % interval."""
    high: float
    p: float
    """Two-sided: how likely so large a difference is of two that are equal."""


class Reliability(NamedTuple):
    """What a head foretold and what came, by tenth of the pairs, ascending by probability."""

    foretold: Column
    came: Column
    error: float
    """Expected calibration error: the mean distance of the two."""


def evaluate(model: TransAct, examples: ExampleSet) -> Evaluation:
    """Measure a model on every request."""
    return measured(examples, probabilities(model, examples), model.config.heads)


def measured(examples: ExampleSet, probability: NDArray[np.float32], heads: tuple[Head, ...]) -> Evaluation:
    """Measure float32[p, heads] probabilities of all pairs."""
    utility = np.array([head.utility for head in heads], np.float32)
    measures = dict(ranked(examples, probability @ utility, heads).measures)
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
    found = []
    with torch.inference_mode():
        for start in range(0, len(examples), at_once):
            rows = np.arange(start, min(len(examples), start + at_once))
            # Nothing is drawn: all candidates are taken.
            rngs = [np.random.default_rng(0)] * len(rows)
            found.append(torch.sigmoid(model(examples.batch(rows, rngs, draw).inputs)).numpy())
    return np.concatenate(found)


def ranked(examples: ExampleSet, score: NDArray[np.floating], heads: tuple[Head, ...]) -> Evaluation:
    """Measure any ranking: scores of all pairs, higher first."""
    true: NDArray[np.bool_] = labels(examples.action_types, heads) > 0
    wanted = np.logical_or.reduce([true[:, at] for at, head in enumerate(heads) if head.utility > 0])
    measures = {
        f"hit_at_{TOP}": _by_request(examples, score, wanted, _hit),
        "auc": _by_request(examples, score, wanted, _auc),
    }
    for at, head in enumerate(heads):
        measures[f"hit_at_{TOP}/{head.name}"] = _by_request(examples, score, true[:, at], _hit)
    return Evaluation(examples.user, measures, None)


def summary(evaluation: Evaluation) -> dict[str, float]:
    """Return the mean of every measure that some request has an answer to."""
    found = {measure: evaluation.mean(measure) for measure in evaluation.measures}
    return {measure: value for measure, value in found.items() if not np.isnan(value)}


def measures_of(model: TransAct, examples: ExampleSet) -> dict[str, float]:
    """Return the summary of a model, and, as `<ranking>_<measure>`, of each ranking that the examples carry."""
    measures = summary(evaluate(model, examples))
    for name, score in examples.rankings.items():
        found = summary(ranked(examples, score, model.config.heads))
        measures |= {f"{name}_{measure}": value for measure, value in found.items()}
    return measures


def compare(ours: Evaluation, theirs: Evaluation, measure: str, seed: int = 0) -> Difference:
    """Compare on the same requests, by a bootstrap over users: those of a user stand or fall together."""
    column = ours.measures[measure] - theirs.measures[measure]
    answered = ~np.isnan(column)
    users, place = np.unique(ours.user[answered], return_inverse=True)
    total = np.bincount(place, column[answered], len(users))
    count = np.bincount(place, minlength=len(users)).astype(np.float64)
    if len(users) < 2:
        raise ValueError("fewer than two users have an answer: measure on more")

    def mean(totals: Column, counts: Column, axis: int) -> Column:
        found: Column = totals.sum(axis=axis) / counts.sum(axis=axis)
        return found

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
    drawn = result.bootstrap_distribution
    # The interval of a shifted null: as in a test of a mean of zero, one more than what was seen.
    beyond = 1 + min((drawn <= 0).sum(), (drawn >= 0).sum())
    return Difference(
        float(total.sum() / count.sum()),
        float(result.confidence_interval.low),
        float(result.confidence_interval.high),
        float(min(1.0, 2 * beyond / (len(drawn) + 1))),
    )


def reliability(examples: ExampleSet, evaluation: Evaluation, heads: tuple[Head, ...], head: str) -> Reliability:
    """Return how far a head's probabilities can be taken at their word; raises ValueError of a mere ranking."""
    if evaluation.probability is None:
        raise ValueError("a ranking has no probabilities: evaluate a model")
    at = [one.name for one in heads].index(head)
    own = evaluation.probability[:, at].astype(np.float64)
    true = labels(examples.action_types, heads)[:, at]
    tenths = np.array_split(np.argsort(own, kind="stable"), _BINS)
    foretold = np.array([own[rows].mean() for rows in tenths])
    came = np.array([true[rows].mean() for rows in tenths])
    share = np.array([len(rows) for rows in tenths]) / len(own)
    return Reliability(foretold, came, float(np.abs(foretold - came) @ share))


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
