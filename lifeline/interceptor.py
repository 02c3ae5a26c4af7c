"""What interceptors of the gRPC server share: the library's types, generic in its stubs alone, and a call's status."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import grpc

from store.status import Refusal, abort

if TYPE_CHECKING:
    Interceptor = grpc.ServerInterceptor[Any, Any]
    Handler = grpc.RpcMethodHandler[Any, Any]
else:
    Interceptor = grpc.ServerInterceptor
    Handler = grpc.RpcMethodHandler


RETRY_AFTER_S = 0.1
"""When another try is worth its while, of a call that was one too many: most take less."""


def around(handler: Handler, guard: Callable[[grpc.ServicerContext], AbstractContextManager[None]]) -> Handler:
    """Return a handler whose calls, one message for another or streams both ways, are made within a context."""
    if handler.stream_stream is not None:
        streams = cast("Callable[[Any, grpc.ServicerContext], Iterator[Any]]", handler.stream_stream)

        def stream(requests: Any, context: grpc.ServicerContext) -> Iterator[Any]:  # noqa: ANN401 - any messages
            with guard(context):
                yield from streams(requests, context)

        return grpc.stream_stream_rpc_method_handler(
            stream, request_deserializer=handler.request_deserializer, response_serializer=handler.response_serializer
        )
    behaviour = cast("Callable[[Any, grpc.ServicerContext], Any]", handler.unary_unary)

    def unary(request: Any, context: grpc.ServicerContext) -> Any:  # noqa: ANN401 - any message
        with guard(context):
            return behaviour(request, context)

    return grpc.unary_unary_rpc_method_handler(
        unary, request_deserializer=handler.request_deserializer, response_serializer=handler.response_serializer
    )


class _TooLarge(NamedTuple):
    size: int


def at_most(handler: Handler, most: int, refusal: Callable[[int], Refusal]) -> Handler:
    """Return a handler that does not decode requests of more bytes, and ends their calls by the refusal for a size."""
    decode = handler.request_deserializer

    def decoded(raw: bytes) -> Any:  # noqa: ANN401 - any message
        if len(raw) > most:
            return _TooLarge(len(raw))
        return raw if decode is None else decode(raw)

    def checked(request: Any, context: grpc.ServicerContext) -> Any:  # noqa: ANN401
        if isinstance(request, _TooLarge):
            abort(context, refusal(request.size))
        return request

    if handler.stream_stream is not None:
        streams = cast("Callable[[Any, grpc.ServicerContext], Iterator[Any]]", handler.stream_stream)
        return grpc.stream_stream_rpc_method_handler(
            lambda requests, context: streams((checked(request, context) for request in requests), context),
            request_deserializer=decoded,
            response_serializer=handler.response_serializer,
        )
    behaviour = cast("Callable[[Any, grpc.ServicerContext], Any]", handler.unary_unary)
    return grpc.unary_unary_rpc_method_handler(
        lambda request, context: behaviour(checked(request, context), context),
        request_deserializer=decoded,
        response_serializer=handler.response_serializer,
    )


def code_of(context: grpc.ServicerContext) -> grpc.StatusCode | None:
    """Return the status that a call was ended with; None while nothing has set one."""
    # The library has this method; its type stubs lack it.
    code: grpc.StatusCode | None = context.code()  # type: ignore[attr-defined]
    return code
