"""The gRPC service that reports the active model version, and changes it while the node serves."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import grpc

from lifeline.core.reasons import Reason
from lifeline.rpc.score_service import ModelHolder
from lifeline.rpc.status import Refusal
from lifeline.rpc.validation import abort_on_refusal
from lifeline.scorer.errors import ModelNotFoundError, ScorerError
from lifeline.v1 import model_pb2, model_pb2_grpc, score_pb2

if TYPE_CHECKING:
    # It imports torch, which a node without a model does not need.
    from lifeline.scorer.scorer import Scorer

SERVICE = model_pb2.DESCRIPTOR.services_by_name["ModelService"].full_name


class ModelService(model_pb2_grpc.ModelServiceServicer):
    """Reads and replaces the scorer of a `ModelHolder`."""

    def __init__(
        self, models: ModelHolder, load: "Callable[[str | None], Scorer]", versions: Callable[[], list[str]]
    ) -> None:
        """`load` returns the scorer of a version, of the newest if None, and raises ScorerError.

        `versions` lists the versions that a caller may request.
        """
        self._models, self._load, self._versions = models, load, versions
        self._load_lock = threading.Lock()

    def GetModel(  # noqa: N802 - the name of the method on the wire
        self, request: model_pb2.GetModelRequest, context: grpc.ServicerContext
    ) -> model_pb2.GetModelResponse:
        """Implement GetModel, as model.proto defines it."""
        del request
        with abort_on_refusal(context), _scorer_errors_as_refusals():
            scorer = self._models.scorer
            return model_pb2.GetModelResponse(
                model=None if scorer is None else _version(scorer),
                kernels="" if scorer is None else scorer.kernels,
                versions=self._versions(),
            )

    def UseModel(  # noqa: N802
        self, request: model_pb2.UseModelRequest, context: grpc.ServicerContext
    ) -> model_pb2.UseModelResponse:
        """Implement UseModel, as model.proto defines it."""
        with abort_on_refusal(context), _scorer_errors_as_refusals(), self._load_lock:
            previous = self._models.scorer
            # A caller must not make the node read any path that is not a listed version.
            if request.version and request.version not in self._versions():
                raise _not_listed()
            scorer = self._load(request.version or None)
            self._models.use(scorer)
            return model_pb2.UseModelResponse(
                model=_version(scorer), previous=None if previous is None else _version(previous)
            )


@contextmanager
def _scorer_errors_as_refusals() -> Iterator[None]:
    """Raise a Refusal for each error of the scorer."""
    try:
        yield
    except ModelNotFoundError as error:
        raise _not_listed() from error
    except ScorerError as error:
        raise Refusal(grpc.StatusCode.FAILED_PRECONDITION, Reason.MODEL_UNUSABLE, str(error)) from error


def _not_listed() -> Refusal:
    """Return the same refusal for every name that is not listed, so that it reveals nothing of the disk."""
    return Refusal(
        grpc.StatusCode.NOT_FOUND,
        Reason.MODEL_NOT_FOUND,
        "this node has no such version: use one that `lifeline model show` lists, train a model, or correct "
        "scorer.models_dir, scorer.model and scorer.version",
    )


def _version(scorer: "Scorer") -> score_pb2.ModelVersion:
    return score_pb2.ModelVersion(name=scorer.manifest.name, version=scorer.manifest.version)
