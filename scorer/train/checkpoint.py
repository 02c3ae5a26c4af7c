"""Checkpoints: the complete state of a training run, to resume it exactly.

One safetensors file: weights, the optimizer's two moments, and the best weights so far, by name; and in its metadata,
as JSON, the progress and the identity of the run. It is replaced atomically.
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
    """The progress of a run."""

    step: int = 0
    """Steps done."""
    best_step: int = 0
    """The step after which validation was best; 0 before the first."""
    best_loss: float = float("inf")
    """The validation loss at that step."""
    curve: list[tuple[int, float, float]] = field(default_factory=list)
    """At each validation: the step, the mean training loss since the last one, and the validation loss."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The content of one file."""

    run: str
    """Identity of settings, configuration and data: only the same run can resume."""
    progress: Progress
    tensors: dict[str, Tensor]

    def write(self, directory: Path) -> None:
        """Write the file, replacing an earlier one."""
        directory.mkdir(parents=True, exist_ok=True)
        meta = json.dumps({"run": self.run, "progress": asdict(self.progress)})
        with replacement(directory / FILE) as temporary:
            save_file({name: tensor.contiguous() for name, tensor in self.tensors.items()}, temporary, {_META: meta})

    @classmethod
    def read(cls, directory: Path, run: str) -> "Checkpoint | None":
        """Return the checkpoint of a directory, or None; raises CheckpointError if it is damaged or of another run."""
        path = directory / FILE
        if not path.exists():
            return None
        try:
            with safe_open(path, "pt") as file:
                meta: dict[str, Any] = json.loads((file.metadata() or {})[_META])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
            progress = Progress(**meta["progress"])
            progress.curve = [
                (int(step), float(training), float(validation)) for step, training, validation in progress.curve
            ]
            saved_run = str(meta["run"])
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path} cannot be read ({error}): remove it and train from the start") from error
        if saved_run != run:
            raise CheckpointError(
                f"{path} belongs to a run with other settings, another configuration or other data: "
                "resume with those of that run, or remove it"
            )
        return cls(saved_run, progress, tensors)
