"""Runs that an evaluation keeps: measured once, and taken for nothing else."""

from pathlib import Path

import numpy as np
import pytest

from lifeline.scorer.errors import RunCacheError
from lifeline.scorer.evaluate.comparison import compare_variants
from lifeline.scorer.evaluate.evaluation import Evaluation
from lifeline.scorer.evaluate.run_cache import Run, RunCache
from lifeline.scorer.evaluate.simulator import Simulator, SimulatorSettings
from lifeline.scorer.evaluate.tasks import SimulatedTask
from lifeline.scorer.settings import TrainSettings
from lifeline.scorer.train.checkpoint import Progress
from lifeline.scorer.train.trainer import Step
from lifeline.scorer.variants import variant
from tests.support.scorer_factories import HEADS

SETTINGS = TrainSettings(steps=2, requests_per_step=4, candidates_drawn=8)
CONFIG = variant("v2", HEADS)
RUN = Run(
    "v2",
    1,
    Evaluation(
        np.array([3, 4, 4]),
        {"auc": np.array([0.5, np.nan, 1.0]), "hit_at_3/click": np.array([0.0, 1.0, np.nan])},
        np.array([[0.25, 0.5, 0.125, 1.0]], np.float32),
    ),
    Progress(2, 1, 0.5, [(1, 0.75, 0.5), (2, 0.5, float("nan"))]),
    3.5,
    100.25,
)


def kept(directory: Path, task: str = "a task", settings: TrainSettings = SETTINGS) -> RunCache:
    return RunCache(directory, task, settings)


def test_a_run_is_read_as_it_was_kept(tmp_path: Path) -> None:
    kept(tmp_path).put(RUN, CONFIG)
    found = kept(tmp_path).get("v2", 1, CONFIG)
    assert found is not None
    assert found.evaluation.measures.keys() == RUN.evaluation.measures.keys()
    for name, column in RUN.evaluation.measures.items():
        np.testing.assert_array_equal(found.evaluation.measures[name], column)
    np.testing.assert_array_equal(found.evaluation.user, RUN.evaluation.user)
    assert found.evaluation.probability is not None
    np.testing.assert_array_equal(found.evaluation.probability, RUN.evaluation.probability)
    np.testing.assert_equal(found.progress.curve, RUN.progress.curve)
    assert (found.progress.step, found.progress.best_step, found.progress.best_loss) == (2, 1, 0.5)
    assert (found.seconds, found.examples_per_s) == (3.5, 100.25)


def test_a_run_is_taken_for_no_other(tmp_path: Path) -> None:
    kept(tmp_path).put(RUN, CONFIG)
    longer = SETTINGS.model_copy(update={"steps": 3})
    assert kept(tmp_path).get("v2", 0, CONFIG) is None
    assert kept(tmp_path).get("v2", 1, CONFIG.model_copy(update={"input_scale": 2.0})) is None
    assert kept(tmp_path, "another").get("v2", 1, CONFIG) is None
    assert kept(tmp_path, settings=longer).get("v2", 1, CONFIG) is None
    # How many threads made it does not count.
    assert kept(tmp_path, settings=SETTINGS.model_copy(update={"threads": 2, "seed": 9})).get("v2", 1, CONFIG)


@pytest.mark.parametrize("damage", [lambda whole: whole[: len(whole) // 2], lambda _: b"", lambda _: b"PK nonsense"])
def test_a_damaged_file_is_named(tmp_path: Path, damage: object) -> None:
    assert callable(damage)
    kept(tmp_path).put(RUN, CONFIG)
    (path,) = tmp_path.iterdir()
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(RunCacheError, match=rf"{path.name} cannot be read .* remove it"):
        kept(tmp_path).get("v2", 1, CONFIG)


def test_a_comparison_goes_on_from_what_was_kept(tmp_path: Path) -> None:
    world = SimulatorSettings(users=24, min_actions=100, max_actions=300, train_requests=3, test_requests=2)
    task = SimulatedTask(Simulator(world), SETTINGS)
    trained: list[tuple[str, int]] = []

    def tell(name: str, seed: int, at: Step) -> None:
        if at.step == at.total:
            trained.append((name, seed))

    once = compare_variants(task, ["none", "v1"], [0], SETTINGS, cache_dir=tmp_path, on_step=tell)
    assert sorted(trained) == [("none", 0), ("v1", 0)]
    trained.clear()
    again = compare_variants(task, ["none", "v1", "hand"], [0, 1], SETTINGS, cache_dir=tmp_path, on_step=tell)
    assert sorted(trained) == [("hand", 0), ("hand", 1), ("none", 1), ("v1", 1)]
    for name in ("none", "v1"):
        for measure, column in once.of(name)[0].evaluation.measures.items():
            np.testing.assert_array_equal(again.of(name)[0].evaluation.measures[measure], column)
    trained.clear()
    whole = compare_variants(task, ["none", "v1", "hand"], [0, 1], SETTINGS, cache_dir=tmp_path, on_step=tell)
    assert not trained
    assert [(run.variant, run.seed) for run in whole.runs] == [(run.variant, run.seed) for run in again.runs]
    assert whole.rules.keys() == again.rules.keys()
    assert whole.requests == again.requests
