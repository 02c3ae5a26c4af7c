from collections.abc import Callable, Iterable, Mapping

import numpy as np
import pytest
import torch

from lifeline.core.actions import Kind
from lifeline.core.sequence import Sequence
from lifeline.core.vocabulary import Vocabulary
from lifeline.scorer.config import ModelConfig
from lifeline.scorer.errors import TrainingDataError
from lifeline.scorer.evaluate.evaluation import measures_of
from lifeline.scorer.settings import TrainSettings
from lifeline.scorer.train import model_training
from lifeline.scorer.train.model_training import RunOptions, TrainingResult
from lifeline.scorer.train.trainer import Step
from tests.support.scorer_factories import DAY, SMALL, VOCABULARY, population, rows_of, sequence, vectors_of

SETTINGS = TrainSettings(steps=40, requests_per_step=8, candidates=8, min_history=10, held_out=0.2, learning_rate=1e-2)


def train(
    histories: Iterable[Mapping[Kind, Sequence]],
    vocabulary: Vocabulary,
    settings: TrainSettings,
    config: ModelConfig | None = None,
    tell: Callable[[Step], None] = lambda _: None,
) -> TrainingResult:
    return model_training.train(histories, vocabulary, settings, RunOptions(measures_of, tell), config)


def test_it_learns_what_users_keep_to_and_says_so() -> None:
    calls: list[Step] = []
    result = train(population(0), VOCABULARY, SETTINGS, SMALL, calls.append)
    assert [at.step for at in calls] == list(range(1, SETTINGS.steps + 1))
    assert all(at.total == SETTINGS.steps and at.examples_per_s > 0 for at in calls)
    assert np.mean([at.loss for at in calls[-5:]]) < np.mean([at.loss for at in calls[:5]])
    metrics = result.metrics
    assert metrics["auc"] > max(metrics["popularity_auc"], 0.7)
    assert 0 < metrics["hit_at_3"] <= 1
    assert {"last_touch_auc", "last_touch_hit_at_3", "popularity_hit_at_3", "train_requests"} < set(metrics)
    assert not result.model.training
    assert 0 <= result.data.from_timestamp_ms < result.data.to_timestamp_ms <= 400 * DAY


def test_the_same_seed_gives_the_same_weights_and_leaves_torch_alone() -> None:
    settings = SETTINGS.model_copy(update={"steps": 4})
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    first, again = (train(population(1), VOCABULARY, settings, SMALL) for _ in range(2))
    assert first.metrics == again.metrics
    for key, weight in first.model.state_dict().items():
        assert torch.equal(weight, again.model.state_dict()[key]), key
    other = train(population(1), VOCABULARY, settings.model_copy(update={"seed": 1}), SMALL)
    assert not torch.equal(other.model.read_out.weight, first.model.read_out.weight)
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)


def test_held_out_requests_are_never_trained_on() -> None:
    # Enough steps to take every training request once.
    settings = SETTINGS.model_copy(update={"steps": 20, "requests_per_step": 16, "max_held_out": 1})
    first = train(population(2), VOCABULARY, settings, SMALL)
    # What users do after the training requests changes: the weights must not.
    histories = population(2)
    vectors = vectors_of(histories)
    changed = [
        {
            kind: sequence(
                [
                    (at, (item + 7) % 80, 5 - act, surface) if at > 350 * DAY else (at, item, act, surface)
                    for at, item, act, surface in rows_of(events)
                ],
                vectors,
            )
            for kind, events in sequences.items()
        }
        for sequences in histories
    ]
    second = train(changed, VOCABULARY, settings, SMALL)
    for key, weight in first.model.state_dict().items():
        assert torch.equal(weight, second.model.state_dict()[key]), key


def test_a_time_limit_ends_it_with_the_schedule_done() -> None:
    settings = SETTINGS.model_copy(update={"steps": 1_000_000, "max_seconds": 0.3})
    calls: list[Step] = []
    train(population(3), VOCABULARY, settings, SMALL, calls.append)
    assert 1 <= len(calls) < 1_000
    assert calls[-1].step == calls[-1].total


def test_the_default_is_the_published_model() -> None:
    settings = SETTINGS.model_copy(update={"steps": 1, "requests_per_step": 1, "max_held_out": 1})
    config = train(population(4), VOCABULARY, settings).model.config
    assert config == ModelConfig(heads=SMALL.heads)


@pytest.mark.parametrize("what", ["no embeddings", "short histories"])
def test_too_little_to_learn_from_is_refused(what: str) -> None:
    rows = [(day * DAY, day % 3, 1, 0) for day in range(100 if what == "no embeddings" else 5)]
    with pytest.raises(TrainingDataError, match=r"Publish embeddings .*, or longer histories"):
        train([{Kind.EXPLICIT: sequence(rows)}], VOCABULARY, SETTINGS, SMALL)
