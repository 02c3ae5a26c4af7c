"""`lifeline train`, on a directory like a node's."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from lifeline.cli import app
from lifeline.core.actions import Kind
from lifeline.core.paths import items_dir, partition_dir
from lifeline.store.embeddings import EmbeddingTable
from lifeline.store.settings import StoreSettings
from tests.support.factories import Event, batch_of, open_store
from tests.support.scorer_factories import DAY, population, rows_of, vectors_of

LATE = 350 * DAY


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("data"), planted=False)


def build(data: Path, *, planted: bool) -> Path:
    """Store a population; with `planted` every user does something else from LATE on."""
    histories = population(0)
    events = [
        Event(f"user{user}".encode(), at, (item + 7) % 80 if planted and at >= LATE else item, act << 8 | surface, kind)
        for user, sequences in enumerate(histories)
        for kind in Kind
        for at, item, act, surface in rows_of(sequences[kind])
    ]
    store = open_store(partition_dir(data, 0), StoreSettings(), partition=0)
    store.apply(batch_of(events), offset=0)
    store.close()
    vectors = vectors_of(histories)
    table = EmbeddingTable.open(items_dir(data))
    items = np.array(list(vectors), np.uint64)
    table.apply(items, np.stack(list(vectors.values())), np.ones(len(items), np.uint32), partition=0, offset=0)
    table.sync()
    table.close()
    return data


def arguments(data: Path, models: Path, *more: object) -> tuple[list[str], dict[str, str]]:
    steps = [] if "--steps" in more or "--seconds" in more else ["--steps", "6"]
    environment = {"LIFELINE_SCORER__MODELS_DIR": str(models)}
    return ["train", "--data-dir", str(data), "--json", *steps, *map(str, more)], environment


def run(data: Path, models: Path, *more: object) -> Result:
    command, environment = arguments(data, models, *more)
    return CliRunner().invoke(app, command, env=environment)


def manifest(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


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


def test_a_training_that_was_killed_goes_on_to_the_same_weights(data: Path, tmp_path: Path) -> None:
    how = ("--steps", 40, "--validate-every", 10, "--variant", "none")
    more = (*how, "--checkpoints", tmp_path / "checkpoints")
    command, environment = arguments(data, tmp_path / "models", *more)
    process = subprocess.Popen(
        [sys.executable, "-m", "lifeline", *command], env=os.environ | environment, stdout=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 60
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


def test_two_processes_save_one_version(data: Path, tmp_path: Path) -> None:
    command, environment = arguments(data, tmp_path, "--variant", "none")
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
