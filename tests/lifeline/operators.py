"""An OperatorService that answers nothing: tests override what they call."""

import grpc

from lifeline.v1 import operator_pb2, operator_pb2_grpc


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
