"""The one interceptor of the gRPC server, and the stages that it puts around every method's handler.

The library asks an interceptor for a handler at every call, in the one thread that all calls arrive in. So the stages
are put together once for each method, and what they do for a call they do in the call's own thread.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

import grpc

from lifeline.rpc.status import Refusal, abort

if TYPE_CHECKING:
    Interceptor = grpc.ServerInterceptor[Any, Any]
    Handler = grpc.RpcMethodHandler[Any, Any]
else:
    Interceptor = grpc.ServerInterceptor
    Handler = grpc.RpcMethodHandler


RETRY_AFTER_S = 0.1
"""When another try is worth its while, of a call that was one too many: most take less."""


class SizeLimit(NamedTuple):
    """The largest request that a caller may send."""

    max_bytes: int
    """Bytes."""
    refusal: Callable[[int], Refusal]
    """Of a size."""


Guard = Callable[[grpc.ServicerContext], AbstractContextManager[SizeLimit | None]]
"""What a call is made within; it may end the call, or bound its requests."""


class Stage(Protocol):
    """One of the things that happen around every call."""

    def wrap(self, method: str, handler: Handler) -> Handler:
        """Return the handler of a method, by its path, with this stage around it.

        The result is kept: what depends on a call belongs into the handler.
        """


class Pipeline(Interceptor):
    """The one interceptor of a server: it looks a method's handler up, with all stages around it, made once."""

    def __init__(self, stages: Sequence[Stage], unimplemented: Sequence[str] = ()) -> None:
        """Take the stages, the outermost first; the methods of `unimplemented` are answered as unknown ones are."""
        self._stages, self._unserved = tuple(reversed(stages)), frozenset(unimplemented)
        self._handlers: dict[str, Handler] = {}

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Handler | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Return the handler of a call's method; None where no service has it. It runs in the server's one thread."""
        method = handler_call_details.method
        found = self._handlers.get(method)
        if found is not None:
            return found
        handler = continuation(handler_call_details)
        if handler is None or method in self._unserved:
            return None
        for stage in self._stages:
            handler = stage.wrap(method, handler)
        self._handlers[method] = handler
        return handler


def around(handler: Handler, guard: Guard) -> Handler:
    """Return a handler whose calls, of one request or a stream of them, are made within a context.

    It takes bytes, and decodes them inside that context, in the call's own thread.
    """
    deserializer = handler.request_deserializer

    def read(raw: bytes, limit: SizeLimit | None, context: grpc.ServicerContext) -> Any:  # noqa: ANN401 - any message
        if limit is not None and len(raw) > limit.max_bytes:
            abort(context, limit.refusal(len(raw)))
        return raw if deserializer is None else decode(deserializer, raw, context)

    if handler.stream_stream is not None:
        streams = cast("Callable[[Any, grpc.ServicerContext], Iterator[Any]]", handler.stream_stream)

        def stream(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[Any]:
            with guard(context) as limit:
                yield from streams((read(raw, limit, context) for raw in requests), context)

        return grpc.stream_stream_rpc_method_handler(stream, response_serializer=handler.response_serializer)
    if handler.unary_stream is not None:
        answers = handler.unary_stream

        def answer(raw: bytes, context: grpc.ServicerContext) -> Iterator[Any]:
            with guard(context) as limit:
                yield from answers(read(raw, limit, context), context)

        return grpc.unary_stream_rpc_method_handler(answer, response_serializer=handler.response_serializer)
    behaviour = cast("Callable[[Any, grpc.ServicerContext], Any]", handler.unary_unary)

    def unary(raw: bytes, context: grpc.ServicerContext) -> Any:  # noqa: ANN401 - any message
        with guard(context) as limit:
            return behaviour(read(raw, limit, context), context)

    return grpc.unary_unary_rpc_method_handler(unary, response_serializer=handler.response_serializer)


def decode(deserializer: Callable[[bytes], Any], raw: bytes, context: grpc.ServicerContext) -> Any:  # noqa: ANN401
    """Return the message of a request; ends the call where the deserializer raises Refusal."""
    try:
        return deserializer(raw)
    except Refusal as refusal:
        abort(context, refusal)


def code_of(context: grpc.ServicerContext) -> grpc.StatusCode | None:
    """Return the status that a call was ended with; None while nothing has set one."""
    # The library has this method; its type stubs lack it.
    code: grpc.StatusCode | None = context.code()  # type: ignore[attr-defined]
    return code
