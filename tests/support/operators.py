"""Services that answer nothing: tests override what they call."""

import grpc

from lifeline.v1 import model_pb2, model_pb2_grpc, operator_pb2, operator_pb2_grpc


class Operators(operator_pb2_grpc.OperatorServiceServicer):
    """Is never called."""

    def CreateSnapshot(  # noqa: N802
        self, request: operator_pb2.CreateSnapshotRequest, context: grpc.ServicerContext
    ) -> operator_pb2.CreateSnapshotResponse:
        raise AssertionError(request, context)

    def ListPartitions(  # noqa: N802
        self, request: operator_pb2.ListPartitionsRequest, context: grpc.ServicerContext
    ) -> operator_pb2.ListPartitionsResponse:
        raise AssertionError(request, context)

    def ListFingerprints(  # noqa: N802
        self, request: operator_pb2.ListFingerprintsRequest, context: grpc.ServicerContext
    ) -> operator_pb2.ListFingerprintsResponse:
        raise AssertionError(request, context)


class Models(model_pb2_grpc.ModelServiceServicer):
    """Is never called."""

    def GetModel(  # noqa: N802
        self, request: model_pb2.GetModelRequest, context: grpc.ServicerContext
    ) -> model_pb2.GetModelResponse:
        raise AssertionError(request, context)

    def UseModel(  # noqa: N802
        self, request: model_pb2.UseModelRequest, context: grpc.ServicerContext
    ) -> model_pb2.UseModelResponse:
        raise AssertionError(request, context)
