"""The models of a node: what it loads when it starts, and what it loads when it is told."""

import structlog

from lifeline.config import Settings
from lifeline.rpc.model_service import ModelService
from lifeline.rpc.score_service import ModelHolder
from lifeline.scorer import weights
from lifeline.scorer.backend import backend_of
from lifeline.scorer.errors import ModelNotFoundError
from lifeline.scorer.scorer import Embeddings, Scorer

_log = structlog.get_logger(__name__)


class Models:
    """Loads versions of the configured model over an embedding table."""

    def __init__(self, settings: Settings, embeddings: Embeddings) -> None:
        """Load the version that is configured, and those of the experiment; it may be that there is none yet.

        Raises ScorerError where one cannot be used.
        """
        self._settings, self._embeddings = settings, embeddings
        self.holder = ModelHolder(settings.scorer)
        try:
            scorer = self.load(settings.scorer.version)
        except ModelNotFoundError as error:
            _log.warning(
                "no model: Score will refuse until there is one, and `lifeline model use` or a restart loads it",
                why=str(error),
            )
            return
        arms = {name: self.load(arm.version) for name, arm in settings.scorer.arms.items()}
        self.holder.install(scorer, arms)
        if arms:
            versions = {name: arm.manifest.version for name, arm in arms.items()}
            _log.info("experiment", name=settings.scorer.experiment, arms=versions)

    def load(self, version: str | None) -> Scorer:
        """Load a version, or the newest; raises ScorerError."""
        wanted = self._settings.scorer.model_copy(update={"version": version})
        loaded = weights.load(wanted, self._settings.vocabulary)
        backend = backend_of(loaded, loaded.precision(wanted.precision), wanted.threads, wanted.device)
        scorer = Scorer(loaded, self._settings.vocabulary, self._embeddings, backend)
        _log.info(
            "model",
            name=loaded.manifest.name,
            version=loaded.manifest.version,
            kernels=scorer.kernels,
        )
        return scorer

    def service(self) -> ModelService:
        """Return the service that tells and changes what is held."""
        scorer = self._settings.scorer
        return ModelService(
            self.holder,
            self.load,
            lambda: weights.usable_versions(scorer.models_dir, scorer.model),
        )
