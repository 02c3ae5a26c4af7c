"""Kept runs: what was measured of a training, in a file of its own, so that an evaluation of hours can be gone on with.

A file is named after what its run depends on: the task, the model's configuration, and how it was trained. A directory
that is shared by several evaluations gives each what it asks for, and nothing else; of one that another version of this
code filled, nobody can say that. The files are NumPy's npz, written aside and renamed into place.
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
from lifeline.scorer.errors import KeptRunError
from lifeline.scorer.evaluate.evaluation import Evaluation
from lifeline.scorer.settings import TrainSettings
from lifeline.scorer.train.checkpoint import Progress

_MEASURE = "measure."


class Run(NamedTuple):
    """One training, measured on the task's test."""

    variant: str
    seed: int
    evaluation: Evaluation
    progress: Progress
    seconds: float
    examples_per_s: float
    """Training pairs, whole steps."""


class KeptRuns:
    """The runs of one task in a directory."""

    def __init__(self, directory: Path, task: str, settings: TrainSettings) -> None:
        """`task` tells all that the task's requests depend on; the seed in `settings` does not count."""
        self._directory = directory
        self._of_all = {"task": task, "settings": settings.model_dump(mode="json", exclude={"seed", "threads"})}

    def find(self, variant: str, seed: int, config: ModelConfig) -> Run | None:
        """Return a run that was kept, or None; raises KeptRunError for a damaged file."""
        path = self._path(variant, seed, config)
        if not path.exists():
            return None
        try:
            with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                columns = {name: file[name] for name in file.files}
            return _run(variant, seed, columns)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise KeptRunError(f"{path} cannot be read ({error}): remove it, and it is made again") from error

    def keep(self, run: Run, config: ModelConfig) -> None:
        """Write a run down."""
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
        depends_on = {**self._of_all, "config": config.model_dump(mode="json"), "seed": seed}
        key = hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()[:16]
        return self._directory / f"{variant}-{seed}-{key}.npz"


def _run(variant: str, seed: int, columns: Mapping[str, NDArray[np.generic]]) -> Run:
    step, best_step, best_loss = columns["progress"].tolist()
    seconds, examples_per_s = columns["speed"].tolist()
    measures = {
        name.removeprefix(_MEASURE): column.astype(np.float64)
        for name, column in columns.items()
        if name.startswith(_MEASURE)
    }
    probability = columns["probability"].astype(np.float32) if "probability" in columns else None
    curve = [(int(at), float(train), float(held)) for at, train, held in columns["curve"].tolist()]
    return Run(
        variant,
        seed,
        Evaluation(columns["user"].astype(np.int64), measures, probability),
        Progress(int(step), int(best_step), float(best_loss), curve),
        float(seconds),
        float(examples_per_s),
    )
