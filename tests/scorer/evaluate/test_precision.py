import numpy as np
import pytest
import torch

from lifeline.scorer.errors import PrecisionError
from lifeline.scorer.evaluate import precision
from lifeline.scorer.evaluate.evaluation import probabilities
from lifeline.scorer.evaluate.precision import BFLOAT16, INT8, Agreement, Bars, measure_precision
from lifeline.scorer.feature_snapshot import FeatureSnapshot
from lifeline.scorer.int8 import calibrate, kernel_mix, products
from lifeline.scorer.kernels.instruction_set import InstructionSet, best
from lifeline.scorer.model import TransAct
from lifeline.scorer.train.examples import ExampleSet, Outcome
from lifeline.scorer.variants import variant
from tests.support.ranking_requests import made_requests
from tests.support.scorer_factories import HEADS, SMALL


def outcomes(count: int = 12) -> list[Outcome]:
    rng = np.random.default_rng(3)
    made = made_requests(rng, [(int(rng.integers(0, 60)), int(rng.integers(0, 12)), 20) for _ in range(count)])
    return [
        Outcome(
            request.user,
            FeatureSnapshot.of(request.history, request.item_id, request.embedding, request.context, SMALL)[0],
            request.action_types,
            {},
        )
        for request in made
    ]


def model() -> TransAct:
    torch.manual_seed(0)
    return TransAct(SMALL).eval()


def test_a_model_agrees_with_itself() -> None:
    baseline = precision._Float32Baseline(model(), outcomes())
    found = baseline.agreement(baseline._probability)
    assert found == Agreement(12, 1.0, 1.0, 0.0, 0.0, 0.0)
    assert found.reaches(BFLOAT16)
    assert found.reaches(INT8)


def test_two_candidates_that_change_places_on_top_are_seen() -> None:
    own = model()
    baseline = precision._Float32Baseline(own, outcomes())
    probability = baseline._probability.copy()
    pairs = baseline._examples.pairs_of(0)
    order = pairs[np.argsort(-(probability[pairs] @ baseline._utility), kind="stable")]
    probability[[order[2], order[3]]] = probability[[order[3], order[2]]]
    found = baseline.agreement(probability)
    assert found.same_top == pytest.approx(11 / 12)
    # One pair of 190, in one request of twelve.
    assert found.tau == pytest.approx(1 - 2 / 190 / 12)
    # Within the top three an order makes no difference to which they are.
    probability = baseline._probability.copy()
    probability[[order[0], order[1]]] = probability[[order[1], order[0]]]
    assert baseline.agreement(probability).same_top == 1.0


def test_each_measure_has_a_bar() -> None:
    good = Agreement(100, 0.97, 0.995, -0.001, -0.001, 0.5)
    assert good.reaches(BFLOAT16)
    for short in (
        good._replace(same_top=0.969),
        good._replace(tau=0.9949),
        good._replace(hit=-0.0011),
        good._replace(auc=-0.0011),
    ):
        assert not short.reaches(BFLOAT16)


@pytest.mark.slow
def test_what_is_found_of_a_model_tells_of_every_product() -> None:
    told: list[str] = []
    own = model()
    found = measure_precision(own, outcomes(), told.append)
    assert found.by_kernels == (best() >= InstructionSet.AVX512_BF16)
    assert found.bfloat16.tau > 0.9
    assert {sensitivity.product for sensitivity in found.sensitivities} == set(products(own))
    assert sum(sensitivity.operations for sensitivity in found.sensitivities) == pytest.approx(1)
    losses = [(1 - sensitivity.agreement.tau) / sensitivity.operations for sensitivity in found.sensitivities]
    assert losses == sorted(losses, reverse=True)
    assert found.int8.tau < 1
    assert told[0] == "calibration"
    assert (found.mixed is None) == (not found.mix)


@pytest.mark.slow
def test_a_mix_leaves_out_what_costs_most_until_it_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    own, requests = model(), outcomes()
    whole = measure_precision(own, requests)
    # Just above what all of them reach together.
    monkeypatch.setattr(precision, "INT8", Bars(0.0, whole.int8.tau + 1e-9, 1.0))
    found = measure_precision(own, requests)
    assert found.mixed is not None
    assert found.mixed.tau > whole.int8.tau
    assert 0 < len(found.mix) < len(products(own))
    first = whole.sensitivities[0].product
    assert first not in found.mix
    monkeypatch.setattr(precision, "INT8", Bars(1.1, 1.0, 0.0))
    found = measure_precision(own, requests)
    assert found.mixed is None
    assert not found.mix


@pytest.mark.skipif(best() < InstructionSet.AVX512_BF16, reason="the processor lacks it")
@pytest.mark.slow
def test_the_kernels_rank_as_their_rounding_in_pytorch_does() -> None:
    own, requests = model(), outcomes()
    baseline = precision._Float32Baseline(own, requests)
    by_kernels = measure_precision(own, requests).bfloat16
    calibration = calibrate(own, [requests[0].snapshot.inputs(requests[0].snapshot.selection())])
    rounded = baseline.of_mix(frozenset(), calibration)
    assert abs(by_kernels.tau - rounded.tau) < 0.01
    assert by_kernels.difference < 3 * rounded.difference + 1e-3
    found = measure_precision(own, requests)
    assert found.int8_by_kernels is not None
    small = baseline.of_mix(kernel_mix(own), found.calibration)
    assert abs(found.int8_by_kernels.tau - small.tau) < 0.02
    assert found.int8_by_kernels.difference < 3 * small.difference


def test_probabilities_do_not_depend_on_how_many_requests_are_measured_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own = model()
    examples = ExampleSet.of_outcomes(outcomes())
    wanted = probabilities(own, examples)
    monkeypatch.setattr("lifeline.scorer.evaluate.evaluation._PAIRS_AT_ONCE", 1)
    np.testing.assert_allclose(probabilities(own, examples), wanted, atol=1e-6)


def test_what_cannot_be_measured_is_said() -> None:
    with pytest.raises(PrecisionError, match="store longer histories"):
        measure_precision(model(), [])
    with pytest.raises(PrecisionError, match="measure a model with transact"):
        measure_precision(TransAct(variant("none", HEADS)), outcomes())
