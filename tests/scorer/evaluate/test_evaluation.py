import numpy as np
import pytest
import torch

from lifeline.scorer.evaluate.evaluation import Evaluation, compare, evaluate, evaluate_ranking, reliability, summary
from lifeline.scorer.evaluate.metrics import auc, hit_at
from lifeline.scorer.model import TransAct
from lifeline.scorer.train.examples import ExampleSet
from lifeline.scorer.train.request import labels
from tests.support.scorer_factories import HEADS, SMALL
from tests.support.training_sets import made_set


def of_users(user: list[int], values: list[float]) -> Evaluation:
    return Evaluation(np.array(user), {"hit": np.array(values)}, None)


def made_model() -> TransAct:
    torch.manual_seed(3)
    return TransAct(SMALL).eval()


def slices(examples: ExampleSet) -> list[slice]:
    return [slice(a, b) for a, b in zip(examples.pair_from[:-1], examples.pair_from[1:], strict=True)]


def test_a_model_is_measured_request_by_request() -> None:
    examples, model = made_set(5, 40), made_model()
    found = evaluate(model, examples)
    assert found.probability is not None
    assert found.probability.shape == (examples.pair_from[-1], len(HEADS))
    utility = np.array([head.utility for head in HEADS], np.float32)
    true = labels(examples.action_types, HEADS) > 0
    for row, pairs in enumerate(slices(examples)):
        score = found.probability[pairs] @ utility
        for at, head in enumerate(HEADS):
            own, theirs = found.probability[pairs, at], true[pairs, at]
            hit = found.measures[f"hit_at_3/{head.name}"][row]
            assert hit == pytest.approx(hit_at(3, score, theirs)) if theirs.any() else np.isnan(hit)
            area = found.measures[f"auc/{head.name}"][row]
            assert np.isnan(area) if theirs.all() or not theirs.any() else area == pytest.approx(auc(own, theirs))
            loss = -np.log(np.where(theirs, own, 1 - own)).mean()
            assert found.measures[f"log_loss/{head.name}"][row] == pytest.approx(loss, rel=1e-4)
        wanted = np.logical_or.reduce(true[pairs, :3], axis=1)
        assert found.measures["hit_at_3"][row] == pytest.approx(hit_at(3, score, wanted)) or not wanted.any()


def test_a_ranking_is_measured_alike_and_the_right_answer_is_best() -> None:
    examples = made_set(6, 30)
    wanted = labels(examples.action_types, HEADS)[:, :3].any(axis=1)
    perfect, worst = (summary(evaluate_ranking(examples, sign * wanted.astype(float), HEADS)) for sign in (1, -1))
    assert perfect["auc"] == 1
    assert worst["auc"] == 0
    assert perfect["hit_at_3"] > worst["hit_at_3"]
    assert not any(name.startswith("log_loss") for name in perfect)


def test_a_difference_that_is_there_is_found_and_one_that_is_not_is_not() -> None:
    rng = np.random.default_rng(0)
    user = np.repeat(np.arange(200), 5).tolist()
    noise = rng.random(1000)
    ours = of_users(user, (noise + 0.05 * rng.random(1000)).tolist())
    theirs = of_users(user, noise.tolist())
    better = compare(ours, theirs, "hit")
    assert better.low > 0
    assert better.low < better.difference < better.high
    assert better.p < 0.01
    assert better.difference == pytest.approx((ours.measures["hit"] - theirs.measures["hit"]).mean())
    worse = compare(theirs, ours, "hit")
    assert (worse.low, worse.high, worse.p) == pytest.approx((-better.high, -better.low, better.p), abs=5e-3)
    equal = compare(theirs, theirs, "hit")
    assert equal.difference == 0
    assert equal.p == 1


def test_users_stand_or_fall_together() -> None:
    # One user has a hundred answers, all alike: they are one observation, not a hundred.
    rng = np.random.default_rng(1)
    user = np.repeat(np.arange(8), 100)
    values = (rng.normal(size=8)[user]).tolist()
    nothing = of_users(user.tolist(), [0.0] * 800)
    assert compare(of_users(user.tolist(), values), nothing, "hit").p > 0.01


def test_false_alarms_come_as_often_as_they_should() -> None:
    rng = np.random.default_rng(2)
    user = np.arange(100).tolist()
    alarms = sum(
        compare(of_users(user, rng.normal(size=100).tolist()), of_users(user, [0.0] * 100), "hit", seed).p < 0.05
        for seed in range(100)
    )
    assert 1 <= alarms <= 12


def test_requests_without_an_answer_are_left_out() -> None:
    nan = float("nan")
    ours, theirs = of_users([0, 1, 2], [1.0, nan, 0.5]), of_users([0, 1, 2], [0.5, nan, 0.25])
    assert ours.mean("hit") == 0.75
    assert compare(ours, theirs, "hit").difference == pytest.approx(0.375)
    with pytest.raises(ValueError, match="evaluate on more requests"):
        compare(of_users([0, 1], [1.0, nan]), of_users([0, 1], [1.0, nan]), "hit")


def test_reliability_tells_what_came_of_what_was_foretold() -> None:
    examples = made_set(7, 200)
    found = evaluate(made_model(), examples)
    true = labels(examples.action_types, HEADS)
    rng = np.random.default_rng(3)
    honest = np.clip(true * 0.9 + 0.05 + 1e-3 * rng.random(true.shape), 0, 1).astype(np.float32)
    of_honest = reliability(examples, found._replace(probability=honest), HEADS, "click")
    assert of_honest.error < 0.06
    assert (np.diff(of_honest.predicted) >= 0).all()
    far = reliability(examples, found._replace(probability=1 - honest), HEADS, "click")
    assert far.error > 0.8
    with pytest.raises(ValueError, match="evaluate a model"):
        reliability(examples, found._replace(probability=None), HEADS, "click")
