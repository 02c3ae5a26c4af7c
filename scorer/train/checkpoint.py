"""Checkpoints: all that a training run needs to go on as if it had never stopped.

One safetensors file: weights, the optimiser's two moments, and the best weights so far, by name; and in its metadata,
as JSON, how far the run is and which run it is. It is written aside and renamed into place.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lifeline.core.atomic_files import replacement
from lifeline.scorer.errors import CheckpointError

FILE = "checkpoint.safetensors"
_META = "lifeline"


@dataclass(slots=True)
class Progress:
    """How far a run is."""

    step: int = 0
    """Steps done."""
    best_step: int = 0
    """The step after which validation was best; 0 before the first."""
    best_loss: float = float("inf")
    """The loss on validation users then."""
    curve: list[tuple[int, float, float]] = field(default_factory=list)
    """At each validation: the step, the mean training loss since the last one, and the validation loss."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What one file holds."""

    run: str
    """Names settings, configuration and data: another run's checkpoint is of no use."""
    progress: Progress
    tensors: dict[str, Tensor]

    def write(self, directory: Path) -> None:
        """Write it, or replace the one before."""
        directory.mkdir(parents=True, exist_ok=True)
        meta = json.dumps({"run": self.run, "progress": asdict(self.progress)})
        with replacement(directory / FILE) as temporary:
            save_file({name: tensor.contiguous() for name, tensor in self.tensors.items()}, temporary, {_META: meta})

    @classmethod
    def read(cls, directory: Path, run: str) -> "Checkpoint | None":
        """Return what is there; None for nothing. Raises CheckpointError for another run's, or a damaged one."""
        path = directory / FILE
        if not path.exists():
            return None
        try:
            with safe_open(path, "pt") as file:
                meta: dict[str, Any] = json.loads((file.metadata() or {})[_META])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
            found = Progress(**meta["progress"])
            found.curve = [(int(step), float(train), float(held)) for step, train, held in found.curve]
            theirs = str(meta["run"])
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path} cannot be read ({error}): remove it and train from the start") from error
        if theirs != run:
            raise CheckpointError(
                f"{path} is of another run, with other settings, another configuration or other data: resume with "
                "what it began with, or remove it"
            )
        return cls(theirs, found, tensors)
