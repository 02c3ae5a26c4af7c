"""What interceptors of the gRPC server share: the library's types, generic in its stubs alone, and a call's status."""

from typing import TYPE_CHECKING, Any

import grpc

if TYPE_CHECKING:
    Interceptor = grpc.ServerInterceptor[Any, Any]
    Handler = grpc.RpcMethodHandler[Any, Any]
else:
    Interceptor = grpc.ServerInterceptor
    Handler = grpc.RpcMethodHandler


def code_of(context: grpc.ServicerContext) -> grpc.StatusCode | None:
    """Return the status that a call was ended with; None while nothing has set one."""
    # The library has this method; its type stubs lack it.
    code: grpc.StatusCode | None = context.code()  # type: ignore[attr-defined]
    return code
