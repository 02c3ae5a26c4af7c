import numpy as np
import pytest

from lifeline.scorer.evaluate.comparison import Comparison, compare_variants
from lifeline.scorer.evaluate.evaluation import evaluate
from lifeline.scorer.evaluate.simulator import Simulator, SimulatorSettings
from lifeline.scorer.evaluate.tasks import HistoryTask, SimulatedTask, Splits
from lifeline.scorer.model import TransAct
from lifeline.scorer.settings import TrainSettings
from lifeline.scorer.train.trainer import TrainingData, fit, seed_torch
from lifeline.scorer.variants import variant
from tests.support.scorer_factories import VOCABULARY, population

SETTINGS = TrainSettings(steps=2, requests_per_step=4, candidates_drawn=8, min_history=5, candidates=8)
WORLD = SimulatorSettings(users=24, min_actions=100, max_actions=300, train_requests=2, test_requests=1)


@pytest.fixture(scope="module")
def task() -> SimulatedTask:
    return SimulatedTask(Simulator(WORLD), SETTINGS)


@pytest.fixture(scope="module")
def comparison(task: SimulatedTask) -> Comparison:
    return compare_variants(task, ["none", "best", "v1", "hand_real_time"], [0, 1], SETTINGS)


def test_the_three_parts_share_no_request_and_stopping_has_users_of_its_own(task: SimulatedTask) -> None:
    splits = task.splits(variant("none", task.heads))
    assert not set(splits.training.user) & set(splits.validation.user)
    assert not set(splits.test.user) & set(splits.validation.user)
    week_ms = 7 * 86_400_000
    assert splits.training.timestamp_ms.max() + week_ms <= splits.test.timestamp_ms.min()
    assert set(splits.test.rankings) >= {"oracle", "popularity", "last_touch", "max_cosine", "mean_of_top_64"}


def test_requests_are_the_same_for_every_model(task: SimulatedTask) -> None:
    short, long = (task.splits(variant(name, task.heads)) for name in ("none", "v2"))
    for name in Splits._fields:
        left, right = getattr(short, name), getattr(long, name)
        np.testing.assert_array_equal(left.item_id, right.item_id)
        np.testing.assert_array_equal(left.action_types, right.action_types)
        np.testing.assert_array_equal(left.timestamp_ms, right.timestamp_ms)


def test_runs_come_in_the_order_that_was_asked_for(comparison: Comparison) -> None:
    assert comparison.names == ["none", "best", "v1", "hand_real_time"]
    assert [(run.variant, run.seed) for run in comparison.runs][:4] == [
        ("none", 0),
        ("none", 1),
        ("best", 0),
        ("best", 1),
    ]
    assert all(run.progress.step == SETTINGS.steps and run.examples_per_s > 0 for run in comparison.runs)


def test_a_run_is_what_the_trainer_gives_alone(task: SimulatedTask, comparison: Comparison) -> None:
    config = variant("v1", task.heads)
    own = SETTINGS.model_copy(update={"seed": 1})
    splits = task.splits(config)
    with seed_torch(own):
        model = TransAct(config)
        fit(model, TrainingData(splits.training, splits.validation, task.positive_types), own)
        alone = evaluate(model, splits.test)
    found = comparison.of("v1")[1].evaluation
    for measure, column in alone.measures.items():
        np.testing.assert_allclose(found.measures[measure], column, atol=1e-6)


def test_differences_and_gaps(comparison: Comparison) -> None:
    measure = "hit_at_3/click"
    first, second = comparison.differences("v1", "none", measure)
    means = [comparison.of(name)[0].evaluation.mean(measure) for name in ("v1", "none")]
    assert first.difference == pytest.approx(means[0] - means[1])
    assert second != first
    (against_rule, _) = comparison.differences("v1", "oracle", measure)
    assert against_rule.difference == pytest.approx(means[0] - comparison.mean("oracle", measure))
    assert comparison.gap_closed("oracle", measure) == 1
    assert comparison.gap_closed("none", measure) == 0


def test_a_history_is_a_task_too() -> None:
    task = HistoryTask("made", population(0, users=30), VOCABULARY, SETTINGS)
    found = compare_variants(task, ["none"], [0], SETTINGS)
    assert "oracle" not in found.rules
    assert found.requests[0] <= SETTINGS.steps * SETTINGS.requests_per_step
    assert found.mean("none", "auc") > 0


def test_no_variant_is_refused(task: SimulatedTask) -> None:
    with pytest.raises(ValueError, match="name at least one"):
        compare_variants(task, [], [0], SETTINGS)
