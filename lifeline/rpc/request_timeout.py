"""A timeout for the request message: a caller that sends none must not hold a server thread.

The gRPC library reads the request of a unary call in a server thread, without a timeout and before the caller is
authenticated. This stage registers each method as one with streamed requests instead. The library then calls the
handler, with the call's context, before the first message has arrived, so the call can be cancelled while it waits.
"""

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, cast

import grpc

from lifeline.rpc.interceptor import Handler
from lifeline.rpc.status import abort
from lifeline.rpc.validation import invalid_field

_TIMEOUT_S = 10.0
_TIMEOUT_UNDER_LOAD_S = 1.0
_CHECK_INTERVAL_S = 0.1


class _PendingCall(NamedTuple):
    """A call whose request has not arrived yet."""

    since: float
    context: grpc.ServicerContext


class RequestTimeout:
    """The outermost stage: cancels calls that send no request within 10 seconds, or 1 second under load."""

    def __init__(self, max_pending: int) -> None:
        """Start the thread that cancels calls; `close` ends it.

        While more than `max_pending` calls wait for their requests, the oldest excess calls get the shorter timeout.
        """
        self._max_pending = max_pending
        self._numbers = itertools.count()
        self._pending: dict[int, _PendingCall] = {}
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._timeout_s = _TIMEOUT_S
        self._thread = threading.Thread(target=self._cancel_late_calls, name="request-timeout", daemon=True)
        self._thread.start()

    def hurry(self) -> None:
        """Give every call only the timeout that applies under load: the server stops, and must not wait for them."""
        self._timeout_s = _TIMEOUT_UNDER_LOAD_S

    def close(self) -> None:
        """Stop cancelling calls; returns when the thread has ended."""
        self._closed.set()
        self._thread.join()

    def wrap(self, method: str, handler: Handler) -> Handler:  # noqa: ARG002 - all methods are wrapped alike
        """Wrap handlers that take a single request; `ConcurrencyLimit` bounds the others by their number."""
        if handler.request_streaming:
            return handler
        if handler.unary_stream is not None:
            respond = handler.unary_stream

            def stream(requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
                yield from respond(self._receive(requests, context), context)

            return grpc.stream_stream_rpc_method_handler(
                stream,
                request_deserializer=handler.request_deserializer,
                response_serializer=handler.response_serializer,
            )
        behaviour = cast("Callable[[Any, grpc.ServicerContext], Any]", handler.unary_unary)

        def unary(requests: Iterator[Any], context: grpc.ServicerContext) -> Any:  # noqa: ANN401 - any message
            return behaviour(self._receive(requests, context), context)

        return grpc.stream_unary_rpc_method_handler(
            unary, request_deserializer=handler.request_deserializer, response_serializer=handler.response_serializer
        )

    def _receive(self, requests: Iterator[Any], context: grpc.ServicerContext) -> Any:  # noqa: ANN401
        number = next(self._numbers)
        with self._lock:
            self._pending[number] = _PendingCall(time.monotonic(), context)
        try:
            request = next(requests, None)
        finally:
            with self._lock:
                del self._pending[number]
        if request is None:
            abort(context, invalid_field("request", "the call ended without a request: send one message"))
        return request

    def _cancel_late_calls(self) -> None:
        while not self._closed.wait(_CHECK_INTERVAL_S):
            now = time.monotonic()
            with self._lock:
                pending = list(self._pending.values())
            excess = len(pending) - self._max_pending
            # The dictionary keeps insertion order: the oldest call is first.
            for position, call in enumerate(pending):
                if now - call.since >= (_TIMEOUT_UNDER_LOAD_S if position < excess else self._timeout_s):
                    call.context.cancel()  # type: ignore[no-untyped-call]
