"""gRPC: which version of the model answers, and its change while the node serves."""

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
    """Changes what a holder holds."""

    def __init__(
        self, models: ModelHolder, load: "Callable[[str | None], Scorer]", versions: Callable[[], list[str]]
    ) -> None:
        """`load` gives a version's scorer, without one the newest's, and raises ScorerError.

        `versions` lists those that may be asked for.
        """
        self._models, self._load, self._versions = models, load, versions
        self._changing = threading.Lock()

    def GetModel(  # noqa: N802 - the name of the method on the wire
        self, request: model_pb2.GetModelRequest, context: grpc.ServicerContext
    ) -> model_pb2.GetModelResponse:
        """Answer GetModel; model.proto says how."""
        del request
        with abort_on_refusal(context), _unusable():
            scorer = self._models.scorer
            return model_pb2.GetModelResponse(
                model=None if scorer is None else _version(scorer),
                kernels="" if scorer is None else scorer.kernels,
                versions=self._versions(),
            )

    def UseModel(  # noqa: N802
        self, request: model_pb2.UseModelRequest, context: grpc.ServicerContext
    ) -> model_pb2.UseModelResponse:
        """Answer UseModel; model.proto says how."""
        with abort_on_refusal(context), _unusable(), self._changing:
            before = self._models.scorer
            # Whatever it may be on the disk, what is not listed is not looked for.
            if request.version and request.version not in self._versions():
                raise _not_listed()
            scorer = self._load(request.version or None)
            self._models.use(scorer)
            return model_pb2.UseModelResponse(
                model=_version(scorer), previous=None if before is None else _version(before)
            )


@contextmanager
def _unusable() -> Iterator[None]:
    """Turn what the scorer raises into a refusal."""
    try:
        yield
    except ModelNotFoundError as error:
        raise _not_listed() from error
    except ScorerError as error:
        raise Refusal(grpc.StatusCode.FAILED_PRECONDITION, Reason.MODEL_UNUSABLE, str(error)) from error


def _not_listed() -> Refusal:
    """Return the one answer to every name that is not listed: nothing is learnt of what lies on the disk."""
    return Refusal(
        grpc.StatusCode.NOT_FOUND,
        Reason.MODEL_NOT_FOUND,
        "this node has no such version: use one that `lifeline model show` lists, train a model, or correct "
        "scorer.models_dir, scorer.model and scorer.version",
    )


def _version(scorer: "Scorer") -> score_pb2.ModelVersion:
    return score_pb2.ModelVersion(name=scorer.manifest.name, version=scorer.manifest.version)
