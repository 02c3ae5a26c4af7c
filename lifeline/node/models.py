"""Loads the models of a node, at its start and on request.

torch is imported with the first model, so that a node without a model starts sooner and takes less memory.
"""

import sys
from typing import TYPE_CHECKING

import structlog

from lifeline.config import Settings
from lifeline.rpc.model_service import ModelService
from lifeline.rpc.score_service import ModelHolder
from lifeline.scorer.errors import ModelNotFoundError
from lifeline.scorer.kernels.instruction_set import InstructionSet, active
from lifeline.scorer.versions import directories, no_version_error
from lifeline.store.gc_tuning import tune_gc

if TYPE_CHECKING:
    from lifeline.scorer.scorer import Embeddings, Scorer

_log = structlog.get_logger(__name__)


class Models:
    """Loads versions of the configured model over an embedding table."""

    def __init__(self, settings: Settings, embeddings: "Embeddings") -> None:
        """Load the configured version and those of the experiment, unless the model has no version yet.

        Raises ScorerError if a version cannot be used, or LIFELINE_KERNELS names kernels that this machine cannot run.
        """
        self._settings, self._embeddings = settings, embeddings
        self._has_kernels = active() is not InstructionSet.NONE
        self.holder = ModelHolder(settings.scorer)
        try:
            scorer = self.load(settings.scorer.version)
        except ModelNotFoundError as error:
            _log.warning(
                "no model: Score calls are refused until `lifeline model use` or a restart loads one",
                why=str(error),
            )
            return
        arms = {name: self.load(arm.version) for name, arm in settings.scorer.arms.items()}
        self.holder.install(scorer, arms)
        if arms:
            versions = {name: arm.manifest.version for name, arm in arms.items()}
            _log.info("experiment", name=settings.scorer.experiment, arms=versions)

    def load(self, version: str | None) -> "Scorer":
        """Load a version, or the newest one; raises ScorerError."""
        settings = self._settings.scorer.model_copy(update={"version": version})
        if not directories(settings.models_dir, settings.model):
            raise no_version_error(settings.model)
        import torch  # noqa: PLC0415 - with the first model

        from lifeline.scorer import weights  # noqa: PLC0415
        from lifeline.scorer.backend import backend_of  # noqa: PLC0415
        from lifeline.scorer.scorer import Scorer  # noqa: PLC0415

        # The setting is global. With the kernels torch does little, and when requests share the cores, its threads
        # would cost more time in waiting for each other than they save.
        torch.set_num_threads(1 if self._has_kernels else settings.threads)
        loaded = weights.load(settings, self._settings.vocabulary)
        backend = backend_of(loaded, loaded.precision(settings.precision), settings.threads, settings.device)
        scorer = Scorer(loaded, self._settings.vocabulary, self._embeddings, backend)
        _log.info(
            "model",
            name=loaded.manifest.name,
            version=loaded.manifest.version,
            kernels=scorer.kernels,
        )
        return scorer

    def service(self) -> ModelService:
        """Return the service that shows and changes the loaded versions."""
        return ModelService(self.holder, self._load_while_serving, self._versions)

    def _load_while_serving(self, version: str | None) -> "Scorer":
        is_first = "torch" not in sys.modules
        scorer = self.load(version)
        if is_first:
            # The imported modules stay in memory, so the garbage collector need not scan them.
            tune_gc()
        return scorer

    def _versions(self) -> list[str]:
        settings = self._settings.scorer
        if not directories(settings.models_dir, settings.model):
            return []
        from lifeline.scorer import weights  # noqa: PLC0415 - it imports torch

        return weights.usable_versions(settings.models_dir, settings.model)
