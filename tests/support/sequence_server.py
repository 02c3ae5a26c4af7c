"""A real gRPC server in this process, and what its refusals say."""

from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from typing import NamedTuple, cast

import grpc
import pytest

from lifeline.v1 import sequence_pb2, sequence_pb2_grpc
from tests.support.refusals import info_of


class Refused(NamedTuple):
    """What a caller gets instead of an answer."""

    code: grpc.StatusCode
    message: str
    reason: str
    domain: str
    metadata: dict[str, str]


@contextmanager
def served(servicer: sequence_pb2_grpc.SequenceServiceServicer) -> Iterator[sequence_pb2_grpc.SequenceServiceStub]:
    server = grpc.server(futures.ThreadPoolExecutor(4))
    sequence_pb2_grpc.add_SequenceServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield sequence_pb2_grpc.SequenceServiceStub(channel)
    finally:
        server.stop(None).wait()


def refused(
    stub: sequence_pb2_grpc.SequenceServiceStub, request: sequence_pb2.GetSequenceRequest, timeout: float = 20
) -> Refused:
    """Make a call that must fail, and return its status with the one ErrorInfo in it."""
    with pytest.raises(grpc.RpcError) as caught:
        stub.GetSequence(request, timeout=timeout)
    call = cast("grpc.Call", caught.value)
    info = info_of(caught.value)
    return Refused(call.code(), call.details() or "", info.reason, info.domain, dict(info.metadata))
