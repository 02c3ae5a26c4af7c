"""The gRPC server's only interceptor: it wraps the handler of each method in stages.

For every call the library asks its interceptors for a handler, in the one thread that accepts all calls. The handler of
a method is therefore wrapped once and then cached; the stages do their work for a call in the call's own thread.
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
"""The retry delay for a call that exceeded a limit on concurrent calls: most calls take less than this."""


class SizeLimit(NamedTuple):
    """The largest request that a caller may send, and the refusal of a larger one."""

    max_bytes: int
    """Bytes."""
    refusal: Callable[[int], Refusal]
    """Returns the refusal of a request of so many bytes."""


Guard = Callable[[grpc.ServicerContext], AbstractContextManager[SizeLimit | None]]
"""Returns the context in which a call is handled; it may abort the call, or bound the size of its requests."""


class Stage(Protocol):
    """A wrapper around every handler: authorization, limits, routing."""

    def wrap(self, method: str, handler: Handler) -> Handler:
        """Return the handler of a method, wrapped in this stage; `method` is its path.

        The result is cached, so whatever depends on a call belongs inside the handler.
        """


class Pipeline(Interceptor):
    """Looks up the handler of a call's method, wrapped in all stages; wraps each handler once."""

    def __init__(self, stages: Sequence[Stage], unimplemented: Sequence[str] = ()) -> None:
        """`stages` has the outermost first. Calls of the methods in `unimplemented` end with UNIMPLEMENTED."""
        self._stages, self._unserved = tuple(reversed(stages)), frozenset(unimplemented)
        self._handlers: dict[str, Handler] = {}

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Handler | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Return the handler of a call's method, None if no service has it. Runs in the thread that accepts calls."""
        method = handler_call_details.method
        cached = self._handlers.get(method)
        if cached is not None:
            return cached
        handler = continuation(handler_call_details)
        if handler is None or method in self._unserved:
            return None
        for stage in self._stages:
            handler = stage.wrap(method, handler)
        self._handlers[method] = handler
        return handler


def around(handler: Handler, guard: Guard) -> Handler:
    """Return a handler that handles each call inside the context of `guard`.

    The handler takes undecoded requests, and decodes them inside that context, in the call's own thread.
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
        respond = handler.unary_stream

        def server_stream(raw: bytes, context: grpc.ServicerContext) -> Iterator[Any]:
            with guard(context) as limit:
                yield from respond(read(raw, limit, context), context)

        return grpc.unary_stream_rpc_method_handler(server_stream, response_serializer=handler.response_serializer)
    behaviour = cast("Callable[[Any, grpc.ServicerContext], Any]", handler.unary_unary)

    def unary(raw: bytes, context: grpc.ServicerContext) -> Any:  # noqa: ANN401 - any message
        with guard(context) as limit:
            return behaviour(read(raw, limit, context), context)

    return grpc.unary_unary_rpc_method_handler(unary, response_serializer=handler.response_serializer)


def decode(deserializer: Callable[[bytes], Any], raw: bytes, context: grpc.ServicerContext) -> Any:  # noqa: ANN401
    """Decode a request; aborts the call if the deserializer raises Refusal."""
    try:
        return deserializer(raw)
    except Refusal as refusal:
        abort(context, refusal)


def code_of(context: grpc.ServicerContext) -> grpc.StatusCode | None:
    """Return the status code that has been set for a call, None if none has."""
    # The library has this method; its type stubs lack it.
    code: grpc.StatusCode | None = context.code()  # type: ignore[attr-defined]
    return code
