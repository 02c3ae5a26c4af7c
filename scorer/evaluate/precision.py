"""Precision: whether a model with cheaper products still ranks as it does in float32, request by request.

The bar of each is the share of the requests with the same three candidates on top, Kendall's tau between the two
orders of all candidates, and the relative loss of AUC and HIT@3. Whoever falls short of one is not offered.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats

from lifeline.scorer.backend import Backend
from lifeline.scorer.cpu_backend import CpuBackend
from lifeline.scorer.errors import PrecisionError
from lifeline.scorer.evaluate.evaluation import TOP, Evaluation, measured, probabilities
from lifeline.scorer.int8 import Calibration, Mix, Product, calibrate, operations, products, quantized
from lifeline.scorer.kernels.instruction_set import InstructionSet, best
from lifeline.scorer.model import TransAct
from lifeline.scorer.precision import Precision
from lifeline.scorer.sequence_encoder import is_supported
from lifeline.scorer.train.examples import ExampleSet, Outcome

_CALIBRATED = 64
_SEARCHED = 100
LEAST_SHARE = 0.3
"""Of the multiplications: with fewer in int8 there is nothing to gain."""


class Bars(NamedTuple):
    """What a precision has to reach."""

    same_top: float
    tau: float
    relative: float
    """How much of AUC and of HIT@3 may be lost."""


BFLOAT16 = Bars(0.97, 0.995, 0.001)
INT8 = Bars(0.95, 0.99, 0.002)


class Agreement(NamedTuple):
    """How a ranking compares with that in float32."""

    requests: int
    same_top: float
    tau: float
    hit: float
    """HIT@3 relative to float32's, less 1."""
    auc: float
    difference: float
    """The greatest of a probability."""

    def reaches(self, bars: Bars) -> bool:
        """Say whether it is good enough."""
        return (
            self.same_top >= bars.same_top
            and self.tau >= bars.tau
            and self.hit >= -bars.relative
            and self.auc >= -bars.relative
        )


class Sensitivity(NamedTuple):
    """What one product in int8, all others in bfloat16, costs and gains."""

    product: Product
    operations: float
    """Its share of the encoder's multiplications."""
    agreement: Agreement


class Found(NamedTuple):
    """What was found of a model."""

    bfloat16: Agreement
    by_kernels: bool
    """Whether kernels made it; else PyTorch, with operands rounded to bfloat16."""
    sensitivities: list[Sensitivity]
    """The one that costs most first."""
    mix: Mix
    """The products that stay in int8 when those that cost most have been taken out until the rest is accepted."""
    int8: Agreement
    """Of all products in int8."""
    mixed: Agreement | None
    """Of the mix; None where too little of the work would be left in it to gain anything."""
    int8_by_kernels: Agreement | None
    """Of the kernels' own mix, as they make it; None without such kernels."""
    calibration: Calibration


def find(model: TransAct, outcomes: Sequence[Outcome], tell: Callable[[str], None] = lambda _: None) -> Found:
    """Measure a model's precisions on requests whose outcome is known.

    Raises PrecisionError without a request, and for a model without TransActV2's encoder.
    """
    if not outcomes:
        raise PrecisionError("there is no request to measure on: store longer histories")
    judge = _Judge(model, outcomes)
    some = judge.of_first(_SEARCHED)
    all_products = products(model)
    tell("calibration")
    selected = [one.selected for one in outcomes[:_CALIBRATED]]
    calibration = calibrate(model, (one.inputs(one.selection()) for one in selected))
    tell("bfloat16")
    low, small = None, None
    if best() >= InstructionSet.AVX512_BF16 and is_supported(model):
        low = judge.by_backend(CpuBackend(model, best(), Precision.BFLOAT16))
        small = judge.by_backend(CpuBackend(model, best(), Precision.INT8, calibration=calibration))
    total = sum(operations(model, product) for product in all_products)
    found = []
    for product in all_products:
        tell(str(product))
        share = operations(model, product) / total
        found.append(Sensitivity(product, share, some.of(frozenset({product}), calibration)))
    # What costs most for what it gains goes first.
    found.sort(key=lambda one: (one.agreement.tau - 1) / one.operations)
    tell("all products in int8")
    whole = judge.of(frozenset(all_products), calibration)
    mixed, left = (whole if whole.reaches(INT8) else None), list(found)
    while mixed is None and len(left) > 1:
        left = left[1:]
        if sum(one.operations for one in left) < LEAST_SHARE:
            break
        mix = frozenset(one.product for one in left)
        tell(f"{len(mix)} products in int8")
        if some.of(mix, calibration).reaches(INT8):
            tried = judge.of(mix, calibration)
            mixed = tried if tried.reaches(INT8) else None
    mix = frozenset(one.product for one in left) if mixed is not None else frozenset()
    rounded = low or judge.of(frozenset(), calibration)
    return Found(rounded, low is not None, found, mix, whole, mixed, small, calibration)


class _Judge:
    """Compares with float32 on some requests."""

    def __init__(
        self, model: TransAct, outcomes: Sequence[Outcome], probability: NDArray[np.float32] | None = None
    ) -> None:
        """`probability` is what float32 gives all pairs, where that is known."""
        self._model, self._outcomes, self._examples = model, outcomes, ExampleSet.of_outcomes(outcomes)
        self._utility = np.array([head.utility for head in model.config.heads], np.float32)
        self._probability = probabilities(model, self._examples) if probability is None else probability
        self._evaluation = measured(self._examples, self._probability, model.config.heads)

    def of_first(self, count: int) -> "_Judge":
        """Return one of the first so many requests, or of all."""
        outcomes = self._outcomes[:count]
        return _Judge(self._model, outcomes, self._probability[: self._examples.pair_from[len(outcomes)]])

    def of(self, mix: Mix, calibration: Calibration) -> Agreement:
        """Return how a mix compares."""
        return self.agreement(probabilities(quantized(self._model, mix, calibration), self._examples))

    def by_backend(self, backend: Backend) -> Agreement:
        """Return how a backend compares, request by request, as serving uses it."""
        snapshots = [outcome.selected for outcome in self._outcomes]
        with torch.inference_mode():
            probability = [
                torch.sigmoid(backend.logits(snapshot.tokens, snapshot.selection(), snapshot.pairs)).numpy()
                for snapshot in snapshots
            ]
        return self.agreement(np.concatenate(probability))

    def agreement(self, probability: NDArray[np.float32]) -> Agreement:
        """Return how float32[p, heads] of all pairs compare."""
        evaluation = measured(self._examples, probability, self._model.config.heads)
        ours, theirs = probability @ self._utility, self._probability @ self._utility
        same, tau = [], []
        for row in range(len(self._examples)):
            pairs = self._examples.pairs_of(row)
            same.append(_top(ours[pairs]) == _top(theirs[pairs]))
            if len(pairs) > 1:
                tau.append(stats.kendalltau(ours[pairs], theirs[pairs]).statistic)
        return Agreement(
            len(same),
            float(np.mean(same)),
            float(np.nanmean(tau)),
            _relative(evaluation, self._evaluation, f"hit_at_{TOP}"),
            _relative(evaluation, self._evaluation, "auc"),
            float(np.abs(probability - self._probability).max()),
        )


def _top(score: NDArray[np.float32]) -> set[int]:
    return set(np.argsort(-score, kind="stable")[:TOP].tolist())


def _relative(ours: Evaluation, theirs: Evaluation, measure: str) -> float:
    return ours.mean(measure) / theirs.mean(measure) - 1
