"""What interceptors of the gRPC server share: the library's types, generic in its stubs alone, and a call's status."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

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


class Limit(Protocol):
    """What a handler's requests are held to before it sees them."""

    def decoding(self, decode: Callable[[bytes], Any] | None) -> Callable[[bytes], Any]:
        """Return a decoder that gives a Refusal in place of a request beyond the limit."""


class SizeLimit(NamedTuple):
    """Requests of more bytes are not decoded: they end their calls."""

    most: int
    refusal: Callable[[int], Refusal]
    """Of a size."""

    def decoding(self, decode: Callable[[bytes], Any] | None) -> Callable[[bytes], Any]:
        """Return what decodes no request that is too large, and gives the refusal instead."""
        return lambda raw: self.refusal(len(raw)) if len(raw) > self.most else raw if decode is None else decode(raw)


def admit(request: Any, context: grpc.ServicerContext) -> Any:  # noqa: ANN401 - any message
    """Return a request; ends the call where its decoder gave a refusal in place of one."""
    if isinstance(request, Refusal):
        abort(context, request)
    return request


def around(
    handler: Handler,
    guard: Callable[[grpc.ServicerContext], AbstractContextManager[None]],
    limit: Limit | None = None,
) -> Handler:
    """Return a handler whose calls, of one request or a stream of them, are made within a context."""
    decode = handler.request_deserializer if limit is None else limit.decoding(handler.request_deserializer)
    if handler.stream_stream is not None:
        streams = cast("Callable[[Any, grpc.ServicerContext], Iterator[Any]]", handler.stream_stream)

        def stream(requests: Any, context: grpc.ServicerContext) -> Iterator[Any]:  # noqa: ANN401 - any messages
            with guard(context):
                yield from streams((admit(request, context) for request in requests), context)

        return grpc.stream_stream_rpc_method_handler(
            stream, request_deserializer=decode, response_serializer=handler.response_serializer
        )
    if handler.unary_stream is not None:
        answers = handler.unary_stream

        def answer(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:  # noqa: ANN401 - any message
            with guard(context):
                yield from answers(admit(request, context), context)

        return grpc.unary_stream_rpc_method_handler(
            answer, request_deserializer=decode, response_serializer=handler.response_serializer
        )
    behaviour = cast("Callable[[Any, grpc.ServicerContext], Any]", handler.unary_unary)

    def unary(request: Any, context: grpc.ServicerContext) -> Any:  # noqa: ANN401 - any message
        with guard(context):
            return behaviour(admit(request, context), context)

    return grpc.unary_unary_rpc_method_handler(
        unary, request_deserializer=decode, response_serializer=handler.response_serializer
    )


def code_of(context: grpc.ServicerContext) -> grpc.StatusCode | None:
    """Return the status that a call was ended with; None while nothing has set one."""
    # The library has this method; its type stubs lack it.
    code: grpc.StatusCode | None = context.code()  # type: ignore[attr-defined]
    return code
