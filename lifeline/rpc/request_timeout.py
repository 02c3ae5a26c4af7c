"""Arrivals: calls whose request does not come are ended, before they hold every thread.

The gRPC library waits for a call's request in one of the server's threads, for as long as the caller likes and before
anybody has asked who that is. Here it is read as a stream of one message, which the library hands over with the call's
context: so the call can be ended meanwhile.
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

_WITHIN_S = 10.0
_LOOK_S = 0.1
_GRACE_S = 1.0


class _PendingCall(NamedTuple):
    """A call whose request is still to come."""

    since: float
    context: grpc.ServicerContext


class RequestTimeout:
    """The outermost stage: cancels calls without a request after ten seconds, the oldest of many after one."""

    def __init__(self, most: int) -> None:
        """Where more than `most` calls have sent no request, the oldest ones get little time. `close` ends a thread."""
        self._most = most
        self._numbers = itertools.count()
        self._awaited: dict[int, _PendingCall] = {}
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._look, name="arrivals", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop looking."""
        self._closed.set()
        self._thread.join()

    def wrap(self, method: str, handler: Handler) -> Handler:  # noqa: ARG002 - of every method alike
        """Wrap the handlers of single requests; streams are bounded by their number."""
        if handler.request_streaming:
            return handler
        if handler.unary_stream is not None:
            answers = handler.unary_stream

            def stream(requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
                yield from answers(self._request(requests, context), context)

            return grpc.stream_stream_rpc_method_handler(
                stream,
                request_deserializer=handler.request_deserializer,
                response_serializer=handler.response_serializer,
            )
        behaviour = cast("Callable[[Any, grpc.ServicerContext], Any]", handler.unary_unary)

        def unary(requests: Iterator[Any], context: grpc.ServicerContext) -> Any:  # noqa: ANN401 - any message
            return behaviour(self._request(requests, context), context)

        return grpc.stream_unary_rpc_method_handler(
            unary, request_deserializer=handler.request_deserializer, response_serializer=handler.response_serializer
        )

    def _request(self, requests: Iterator[Any], context: grpc.ServicerContext) -> Any:  # noqa: ANN401
        number = next(self._numbers)
        with self._lock:
            self._awaited[number] = _PendingCall(time.monotonic(), context)
        try:
            request = next(requests, None)
        finally:
            with self._lock:
                del self._awaited[number]
        if request is None:
            abort(context, invalid_field("request", "there is none: send one message"))
        return request

    def _look(self) -> None:
        while not self._closed.wait(_LOOK_S):
            now = time.monotonic()
            with self._lock:
                awaited = list(self._awaited.values())
            too_many = len(awaited) - self._most
            # The oldest is the first.
            for place, call in enumerate(awaited):
                if now - call.since >= (_GRACE_S if place < too_many else _WITHIN_S):
                    call.context.cancel()  # type: ignore[no-untyped-call]
