import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboardX import SummaryWriter
from tensorboardX.proto.event_pb2 import Event

from lifeline.scorer.config import ModelConfig
from lifeline.scorer.errors import CheckpointError
from lifeline.scorer.model import TransAct
from lifeline.scorer.settings import TrainSettings
from lifeline.scorer.train.checkpoint import FILE, Checkpoint, Progress
from lifeline.scorer.train.parallel import Group
from lifeline.scorer.train.trainer import RunFiles, Step, TrainingData, fit, seed_torch, validation_loss
from tests.support.scorer_factories import SMALL
from tests.support.training_sets import SETTINGS, made_set


def trained(
    settings: TrainSettings = SETTINGS,
    config: ModelConfig = SMALL,
    files: RunFiles | None = None,
    steps_told: list[Step] | None = None,
) -> tuple[TransAct, Progress]:
    with seed_torch(settings):
        model = TransAct(config)
        data = TrainingData(made_set(0, 10, config), made_set(1, 6, config), [1, 2])
        told = [] if steps_told is None else steps_told
        progress = fit(model, data, settings, on_step=told.append, files=files)
    return model, progress


def weights(model: TransAct) -> dict[str, torch.Tensor]:
    return dict(model.state_dict())


class InterruptedRunError(Exception):
    pass


class Curves:
    def __init__(self, fail_at: int = 0) -> None:
        self.points: dict[str, list[tuple[int, float]]] = {}
        self._fail_at = fail_at

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
        if global_step == self._fail_at:
            raise InterruptedRunError
        self.points.setdefault(tag, []).append((global_step, scalar_value))


@pytest.mark.parametrize("nal_source", ["impressions", "in_batch"])
def test_a_run_that_was_interrupted_ends_with_the_same_weights(tmp_path: Path, nal_source: str) -> None:
    config = SMALL.model_copy(update={"nal_source": nal_source})
    whole, progress = trained(config=config)
    with pytest.raises(InterruptedRunError):
        trained(config=config, files=RunFiles(tmp_path, "run", Curves(fail_at=7)))
    steps: list[Step] = []
    resumed, again = trained(config=config, files=RunFiles(tmp_path, "run"), steps_told=steps)
    # The checkpoint was made after step 4.
    assert [at.step for at in steps] == list(range(5, 13))
    assert again == progress
    for name, weight in weights(whole).items():
        assert torch.equal(weight, weights(resumed)[name]), name


def test_a_run_that_is_done_is_not_done_again(tmp_path: Path) -> None:
    model, _ = trained(files=RunFiles(tmp_path, "run"))
    steps: list[Step] = []
    again, _ = trained(files=RunFiles(tmp_path, "run"), steps_told=steps)
    assert steps == []
    for name, weight in weights(model).items():
        assert torch.equal(weight, weights(again)[name]), name


def test_the_weights_that_validation_liked_best_are_kept_and_it_stops_when_none_come() -> None:
    # So large steps that it soon gets worse.
    settings = SETTINGS.model_copy(update={"steps": 400, "validate_every": 5, "patience": 3, "learning_rate": 0.1})
    model, progress = trained(settings)
    assert progress.step == progress.best_step + 15 < 400
    losses = {step: loss for step, _, loss in progress.curve}
    assert progress.best_loss == min(losses.values()) == losses[progress.best_step]
    assert validation_loss(model, made_set(1, 6), settings, Group()) == pytest.approx(progress.best_loss)


def test_curves_are_written(tmp_path: Path) -> None:
    writer = SummaryWriter(str(tmp_path))
    trained(files=RunFiles(curves=writer))
    writer.close()
    (path,) = tmp_path.glob("events.out.tfevents.*")
    found: dict[str, list[int]] = {}
    raw, at = path.read_bytes(), 0
    while at < len(raw):
        length = int.from_bytes(raw[at : at + 8], "little")
        event = Event.FromString(raw[at + 12 : at + 12 + length])
        at += 16 + length
        for value in event.summary.value:
            found.setdefault(value.tag, []).append(event.step)
    every = list(range(1, 13))
    assert found == {
        "loss/training": every,
        "learning_rate": every,
        "examples_per_s": every,
        "loss/validation": [4, 8, 12],
    }


def test_another_runs_checkpoint_is_refused(tmp_path: Path) -> None:
    trained(files=RunFiles(tmp_path, "run"))
    with pytest.raises(CheckpointError, match="resume with those of that run"):
        trained(files=RunFiles(tmp_path, "another"))


@pytest.mark.parametrize("content", [b"", b"\x08\0\0\0\0\0\0\0{}      ", b"nonsense" * 10])
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(CheckpointError, match="remove it and train from the start"):
        Checkpoint.read(tmp_path, "run")


def test_without_a_checkpoint_it_begins() -> None:
    assert Checkpoint.read(Path("/nonexistent"), "run") is None


def test_more_processes_than_requests_are_refused() -> None:
    with seed_torch(SETTINGS), pytest.raises(ValueError, match="raise requests_per_step, or start fewer"):
        fit(TransAct(SMALL), TrainingData(made_set(0, 4), None, []), SETTINGS, group=Group(0, 5))


@pytest.mark.slow
def test_two_processes_go_the_way_of_one(tmp_path: Path) -> None:
    # With negatives of the whole batch, the processes have to exchange them.
    alone: list[Step] = []
    model, progress = trained(config=SMALL.model_copy(update={"nal_source": "in_batch"}), steps_told=alone)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    environment = os.environ | {"PYTHONPATH": str(Path.cwd()), "OMP_NUM_THREADS": "1"}
    subprocess.run(
        [*command, "-m", "tests.support.train_together", str(tmp_path)],
        env=environment,
        check=True,
        timeout=120,
        capture_output=True,
    )
    together = [np.load(tmp_path / f"{rank}.npz") for rank in range(2)]
    losses = [at.loss for at in alone]
    for worker in together:
        np.testing.assert_allclose(worker["losses"], losses, rtol=1e-4)
        np.testing.assert_allclose(worker["validation"], [loss for *_, loss in progress.curve], rtol=1e-4)
        np.testing.assert_array_equal(worker["weights"], together[0]["weights"])
    flat = torch.cat([weight.reshape(-1) for weight in weights(model).values()])
    np.testing.assert_allclose(together[0]["weights"], flat.numpy(), atol=2e-3)
