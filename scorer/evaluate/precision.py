"""Precision: whether a model at lower precision ranks as it does in float32, request by request.

The bars of a precision are: the share of requests with the same three candidates on top, Kendall's tau between the two
orders of all candidates, and the relative loss of AUC and HIT@3. A precision that misses one of them is not accepted.
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
from lifeline.scorer.evaluate.evaluation import TOP, Evaluation, evaluate_probabilities, probabilities
from lifeline.scorer.int8 import Calibration, Mix, Product, calibrate, operations, products, quantize_model
from lifeline.scorer.kernels.instruction_set import InstructionSet, best
from lifeline.scorer.model import TransAct
from lifeline.scorer.precision import Precision
from lifeline.scorer.sequence_encoder import is_supported
from lifeline.scorer.train.examples import ExampleSet, Outcome

_CALIBRATED = 64
_SEARCHED = 100
MIN_INT8_SHARE = 0.3
"""The least share of multiplications in int8 that is worth a mix."""


class Bars(NamedTuple):
    """The bars that a precision has to reach."""

    same_top: float
    tau: float
    relative: float
    """The greatest relative loss of AUC and of HIT@3."""


BFLOAT16 = Bars(0.97, 0.995, 0.001)
INT8 = Bars(0.95, 0.99, 0.002)


class Agreement(NamedTuple):
    """The agreement of a ranking with that in float32."""

    requests: int
    same_top: float
    tau: float
    hit: float
    """HIT@3 relative to float32's, less 1."""
    auc: float
    difference: float
    """The greatest absolute difference of a probability."""

    def reaches(self, bars: Bars) -> bool:
        """Return whether it reaches all bars."""
        return (
            self.same_top >= bars.same_top
            and self.tau >= bars.tau
            and self.hit >= -bars.relative
            and self.auc >= -bars.relative
        )


class Sensitivity(NamedTuple):
    """The agreement with one product in int8 and all others in bfloat16."""

    product: Product
    operations: float
    """Its share of the encoder's multiplications."""
    agreement: Agreement


class PrecisionMeasurement(NamedTuple):
    """The measured precisions of a model."""

    bfloat16: Agreement
    by_kernels: bool
    """Whether kernels computed bfloat16; otherwise PyTorch did, with rounded operands."""
    sensitivities: list[Sensitivity]
    """The product with the greatest loss per saved multiplication first."""
    mix: Mix
    """The products left in int8 after the most costly were removed until the rest is accepted."""
    int8: Agreement
    """Of all products in int8."""
    mixed: Agreement | None
    """Of the mix; None if no mix with at least MIN_INT8_SHARE of the multiplications is accepted."""
    int8_by_kernels: Agreement | None
    """Of the kernels' own mix, computed by the kernels; None without such kernels."""
    calibration: Calibration


def measure_precision(
    model: TransAct, outcomes: Sequence[Outcome], progress: Callable[[str], None] = lambda _: None
) -> PrecisionMeasurement:
    """Measure a model's precisions on requests with known outcomes.

    Raises PrecisionError without a request, and for a model without TransActV2's encoder.
    """
    if not outcomes:
        raise PrecisionError("there is no request to measure on: store longer histories")
    baseline = _Float32Baseline(model, outcomes)
    sample = baseline.first(_SEARCHED)
    all_products = products(model)
    progress("calibration")
    snapshots = [outcome.snapshot for outcome in outcomes[:_CALIBRATED]]
    calibration = calibrate(model, (snapshot.inputs(snapshot.selection()) for snapshot in snapshots))
    progress("bfloat16")
    bfloat16, int8 = None, None
    if best() >= InstructionSet.AVX512_BF16 and is_supported(model):
        bfloat16 = baseline.by_backend(CpuBackend(model, best(), Precision.BFLOAT16))
        int8 = baseline.by_backend(CpuBackend(model, best(), Precision.INT8, calibration=calibration))
    total = sum(operations(model, product) for product in all_products)
    sensitivities = []
    for product in all_products:
        progress(str(product))
        share = operations(model, product) / total
        sensitivities.append(Sensitivity(product, share, sample.of_mix(frozenset({product}), calibration)))
    # The greatest loss of tau per saved multiplication first.
    sensitivities.sort(key=lambda sensitivity: (sensitivity.agreement.tau - 1) / sensitivity.operations)
    progress("all products in int8")
    all_int8 = baseline.of_mix(frozenset(all_products), calibration)
    mixed, remaining = (all_int8 if all_int8.reaches(INT8) else None), list(sensitivities)
    while mixed is None and len(remaining) > 1:
        remaining = remaining[1:]
        if sum(sensitivity.operations for sensitivity in remaining) < MIN_INT8_SHARE:
            break
        mix = frozenset(sensitivity.product for sensitivity in remaining)
        progress(f"{len(mix)} products in int8")
        if sample.of_mix(mix, calibration).reaches(INT8):
            agreement = baseline.of_mix(mix, calibration)
            mixed = agreement if agreement.reaches(INT8) else None
    mix = frozenset(sensitivity.product for sensitivity in remaining) if mixed is not None else frozenset()
    rounded = bfloat16 or baseline.of_mix(frozenset(), calibration)
    return PrecisionMeasurement(rounded, bfloat16 is not None, sensitivities, mix, all_int8, mixed, int8, calibration)


class _Float32Baseline:
    """A model in float32 on some requests: the baseline of comparisons."""

    def __init__(
        self, model: TransAct, outcomes: Sequence[Outcome], probability: NDArray[np.float32] | None = None
    ) -> None:
        """`probability` is the float32 result for all pairs, if it is known already."""
        self._model, self._outcomes, self._examples = model, outcomes, ExampleSet.of_outcomes(outcomes)
        self._utility = np.array([head.utility for head in model.config.heads], np.float32)
        self._probability = probabilities(model, self._examples) if probability is None else probability
        self._evaluation = evaluate_probabilities(self._examples, self._probability, model.config.heads)

    def first(self, count: int) -> "_Float32Baseline":
        """Return a baseline of at most the first `count` requests."""
        outcomes = self._outcomes[:count]
        return _Float32Baseline(self._model, outcomes, self._probability[: self._examples.pair_from[len(outcomes)]])

    def of_mix(self, mix: Mix, calibration: Calibration) -> Agreement:
        """Return the agreement of a mix, computed by PyTorch."""
        return self.agreement(probabilities(quantize_model(self._model, mix, calibration), self._examples))

    def by_backend(self, backend: Backend) -> Agreement:
        """Return the agreement of a backend, which scores one request at a time, as in serving."""
        snapshots = [outcome.snapshot for outcome in self._outcomes]
        with torch.inference_mode():
            probability = [
                torch.sigmoid(backend.logits(snapshot.tokens, snapshot.selection(), snapshot.pairs)).numpy()
                for snapshot in snapshots
            ]
        return self.agreement(np.concatenate(probability))

    def agreement(self, probability: NDArray[np.float32]) -> Agreement:
        """Return the agreement of probabilities of all pairs, float32[p, heads]."""
        evaluation = evaluate_probabilities(self._examples, probability, self._model.config.heads)
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
