"""The run cache: one file for each evaluated run, so that an evaluation of several hours can resume.

The file name contains a hash of all that the run depends on: the task, the model's configuration and the training
settings. So several evaluations can share a directory. The hash does not cover the code: use a new directory after the
code has changed. The files are NumPy's npz, and are replaced atomically.
"""

import hashlib
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lifeline.core.atomic_files import replacement
from lifeline.scorer.config import ModelConfig
from lifeline.scorer.errors import RunCacheError
from lifeline.scorer.evaluate.evaluation import Evaluation
from lifeline.scorer.settings import TrainSettings
from lifeline.scorer.train.checkpoint import Progress

_MEASURE = "measure."


class Run(NamedTuple):
    """One trained model, evaluated on the test set of a task."""

    variant: str
    seed: int
    evaluation: Evaluation
    progress: Progress
    seconds: float
    examples_per_s: float
    """Training pairs, by the time of whole steps."""


class RunCache:
    """The cached runs of one task in a directory."""

    def __init__(self, directory: Path, task: str, settings: TrainSettings) -> None:
        """`task` is `Task.identity`; the seed in `settings` is ignored."""
        self._directory = directory
        self._common_key = {"task": task, "settings": settings.model_dump(mode="json", exclude={"seed", "threads"})}

    def get(self, variant: str, seed: int, config: ModelConfig) -> Run | None:
        """Return a cached run, or None; raises RunCacheError for a damaged file."""
        path = self._path(variant, seed, config)
        if not path.exists():
            return None
        try:
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
                columns = {name: file[name] for name in file.files}
            return _run(variant, seed, columns)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise RunCacheError(f"{path} cannot be read ({error}): remove it, and the run is repeated") from error

    def put(self, run: Run, config: ModelConfig) -> None:
        """Write a run."""
        evaluation, progress = run.evaluation, run.progress
        columns: dict[str, NDArray[np.generic]] = {
            "user": evaluation.user,
            "curve": np.array(progress.curve, np.float64).reshape(-1, 3),
            "progress": np.array([progress.step, progress.best_step, progress.best_loss]),
            "speed": np.array([run.seconds, run.examples_per_s]),
            **{_MEASURE + name: column for name, column in evaluation.measures.items()},
        }
        if evaluation.probability is not None:
            columns["probability"] = evaluation.probability
        path = self._path(run.variant, run.seed, config)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacement(path) as temporary, temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, **columns)

    def _path(self, variant: str, seed: int, config: ModelConfig) -> Path:
        depends_on = {**self._common_key, "config": config.model_dump(mode="json"), "seed": seed}
        key = hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()[:16]
        return self._directory / f"{variant}-{seed}-{key}.npz"


def _run(variant: str, seed: int, columns: Mapping[str, NDArray[np.generic]]) -> Run:
    last_step, best_step, best_loss = columns["progress"].tolist()
    seconds, examples_per_s = columns["speed"].tolist()
    measures = {
        name.removeprefix(_MEASURE): column.astype(np.float64)
        for name, column in columns.items()
        if name.startswith(_MEASURE)
    }
    probability = columns["probability"].astype(np.float32) if "probability" in columns else None
    curve = [(int(step), float(train), float(validation)) for step, train, validation in columns["curve"].tolist()]
    return Run(
        variant,
        seed,
        Evaluation(columns["user"].astype(np.int64), measures, probability),
        Progress(int(last_step), int(best_step), float(best_loss), curve),
        float(seconds),
        float(examples_per_s),
    )
