"""`lifeline train`, on a directory like a node's."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.training_runs import LATE, arguments, build, manifest, run


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("data"), planted=False)


def test_a_version_is_saved_with_what_it_depends_on(data: Path, tmp_path: Path) -> None:
    found = manifest(run(data, tmp_path, "--variant", "v1"))
    directory = tmp_path / found["name"] / found["version"]
    assert {path.name for path in directory.iterdir()} == {"manifest.json", "weights.safetensors"}
    assert found["config"]["lifelong_selected"] == 0
    assert found["data"]["from_timestamp_ms"] < found["data"]["to_timestamp_ms"]
    assert 0 < found["metrics"]["auc"] <= 1


def test_the_same_command_gives_the_same_weights(data: Path, tmp_path: Path) -> None:
    hashes = {manifest(run(data, tmp_path / str(number), "--seed", 4))["weights_sha256"] for number in range(2)}
    assert len(hashes) == 1


def test_what_was_stored_later_changes_nothing(data: Path, tmp_path: Path) -> None:
    other = build(tmp_path / "planted", planted=True)
    plain, planted = (run(where, tmp_path / "models", "--until", LATE) for where in (data, other))
    assert manifest(plain)["weights_sha256"] == manifest(planted)["weights_sha256"]
    assert manifest(plain)["metrics"] == manifest(planted)["metrics"]
    whole = manifest(run(other, tmp_path / "models"))
    assert whole["weights_sha256"] != manifest(plain)["weights_sha256"]
    assert whole["data"]["to_timestamp_ms"] >= LATE > manifest(plain)["data"]["to_timestamp_ms"]


@pytest.mark.slow
def test_a_training_that_was_killed_goes_on_to_the_same_weights(data: Path, tmp_path: Path) -> None:
    how = ("--steps", 40, "--validate-every", 10, "--variant", "none")
    more = (*how, "--checkpoints", tmp_path / "checkpoints")
    command, environment = arguments(data, tmp_path / "models", *more)
    process = subprocess.Popen(
        [sys.executable, "-m", "lifeline", *command], env=os.environ | environment, stdout=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 240
        while not list((tmp_path / "checkpoints").glob("checkpoint*")):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    finally:
        process.kill()
    assert not (tmp_path / "models").exists() or not list((tmp_path / "models").rglob("weights.safetensors"))
    resumed = manifest(run(data, tmp_path / "models", *more))
    whole = manifest(run(data, tmp_path / "models", *how))
    assert resumed["weights_sha256"] == whole["weights_sha256"]


@pytest.mark.slow
def test_two_processes_save_one_version(data: Path, tmp_path: Path) -> None:
    command, environment = arguments(data, tmp_path, "--variant", "none", "--steps", 2)
    together = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", "-m", "lifeline"]
    done = subprocess.run(
        [*together, *command],
        env=os.environ | environment | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        check=True,
        timeout=120,
        text=True,
    )
    found = json.loads(done.stdout)
    assert [path.name for path in (tmp_path / found["name"]).iterdir()] == [found["version"]]


def test_curves_are_left_for_tensorboard(data: Path, tmp_path: Path) -> None:
    manifest(run(data, tmp_path / "models", "--variant", "none", "--curves", tmp_path / "curves"))
    (path,) = (tmp_path / "curves").iterdir()
    assert "tfevents" in path.name
    assert b"loss/training" in path.read_bytes()


@pytest.mark.parametrize(
    ("more", "advice"),
    [
        (("--variant", "v3"), "use one of none, none_without_last_touch"),
        (("--seconds", "5", "--checkpoints", "here"), "give --steps as well"),
    ],
)
def test_wrong_use_is_one_sentence(data: Path, tmp_path: Path, more: tuple[str, ...], advice: str) -> None:
    result = run(data, tmp_path, *more)
    assert result.exit_code == 2
    assert advice in " ".join(result.output.split())
