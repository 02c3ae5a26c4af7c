"""What a call on a bare channel was refused for."""

from typing import cast

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status


def info_of(error: grpc.RpcError) -> error_details_pb2.ErrorInfo:
    """Return the one ErrorInfo of a refusal, whose status is that of its details."""
    call = cast("grpc.Call", error)
    status = rpc_status.from_call(call)
    assert status is not None, f"{call.code()} without details: {call.details()}"
    assert (status.code, status.message) == (call.code().value[0], call.details())
    infos = [detail for detail in status.details if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR)]
    assert len(infos) == 1
    info = error_details_pb2.ErrorInfo()
    infos[0].Unpack(info)
    return info
