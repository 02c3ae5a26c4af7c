"""Services with fixed answers, for the tests of a server."""

import threading

import grpc

from lifeline.v1 import (
    score_pb2,
    score_pb2_grpc,
    sequence_pb2,
    sequence_pb2_grpc,
)


class Sequences(sequence_pb2_grpc.SequenceServiceServicer):
    """Answers, with empty sequences, when it is let go; fails for the user "broken"."""

    def __init__(self) -> None:
        self.entered = threading.Semaphore(0)
        self.go = threading.Event()

    def GetSequence(  # noqa: N802
        self,
        request: sequence_pb2.GetSequenceRequest,
        context: grpc.ServicerContext,  # noqa: ARG002
    ) -> sequence_pb2.GetSequenceResponse:
        if request.user_id == "broken":
            raise ZeroDivisionError("a fault")
        self.entered.release()
        assert self.go.wait(10)
        return sequence_pb2.GetSequenceResponse(sequences=[sequence_pb2.Sequence(kind=kind) for kind in request.kinds])


class Scores(score_pb2_grpc.ScoreServiceServicer):
    """Is never called."""

    def Score(  # noqa: N802
        self,
        request: score_pb2.ScoreRequest,
        context: grpc.ServicerContext,
    ) -> score_pb2.ScoreResponse:
        raise AssertionError(request, context)
