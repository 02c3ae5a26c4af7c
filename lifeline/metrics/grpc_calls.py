"""Calls of the gRPC server, counted and timed under the names that the Go and Java libraries have made standard."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
from prometheus_client import CollectorRegistry, Counter, Histogram

from lifeline.interceptor import Handler, Interceptor, code_of
from lifeline.metrics.catalogue import GRPC_HANDLED, GRPC_SECONDS, GRPC_STARTED

Behaviour = Callable[[Any, grpc.ServicerContext], Any]


class CallMetrics(Interceptor):
    """The outermost interceptor: what it counts, callers saw."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._started = Counter(GRPC_STARTED.name, GRPC_STARTED.help, GRPC_STARTED.labels, registry=registry)
        self._handled = Counter(GRPC_HANDLED.name, GRPC_HANDLED.help, GRPC_HANDLED.labels, registry=registry)
        self._seconds = Histogram(
            GRPC_SECONDS.name, GRPC_SECONDS.help, GRPC_SECONDS.labels, buckets=GRPC_SECONDS.buckets, registry=registry
        )

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Handler | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Wrap the handler, whatever streams it has."""
        handler = continuation(handler_call_details)
        if handler is None:
            return None
        _, service, method = str(handler_call_details.method).split("/")
        kinds: dict[tuple[bool, bool], tuple[str, str, Callable[..., Any]]] = {
            (False, False): ("unary", "unary_unary", grpc.unary_unary_rpc_method_handler),
            (False, True): ("server_stream", "unary_stream", grpc.unary_stream_rpc_method_handler),
            (True, False): ("client_stream", "stream_unary", grpc.stream_unary_rpc_method_handler),
            (True, True): ("bidi_stream", "stream_stream", grpc.stream_stream_rpc_method_handler),
        }
        kind, name, make = kinds[bool(handler.request_streaming), bool(handler.response_streaming)]
        labels = (kind, service, method)
        behaviour: Behaviour = getattr(handler, name)
        wrapped = self._stream(behaviour, labels) if handler.response_streaming else self._unary(behaviour, labels)
        made: Handler = make(
            wrapped,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )
        return made

    def _unary(self, behaviour: Behaviour, labels: tuple[str, str, str]) -> Behaviour:
        def counted(request: Any, context: grpc.ServicerContext) -> Any:  # noqa: ANN401 - any message
            started = self._begin(labels)
            try:
                reply = behaviour(request, context)
            except BaseException:
                self._end(labels, started, context, failed=True)
                raise
            self._end(labels, started, context, failed=False)
            return reply

        return counted

    def _stream(self, behaviour: Behaviour, labels: tuple[str, str, str]) -> Behaviour:
        def counted(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:  # noqa: ANN401 - any message
            started = self._begin(labels)
            failed = True
            try:
                yield from behaviour(request, context)
                failed = False
            finally:
                self._end(labels, started, context, failed=failed)

        return counted

    def _begin(self, labels: tuple[str, str, str]) -> float:
        self._started.labels(*labels).inc()
        return time.perf_counter()

    def _end(
        self, labels: tuple[str, str, str], started: float, context: grpc.ServicerContext, *, failed: bool
    ) -> None:
        self._seconds.labels(*labels).observe(time.perf_counter() - started)
        code = code_of(context)
        if code is None:
            code = grpc.StatusCode.UNKNOWN if failed else grpc.StatusCode.OK
        # In the words of the other languages' libraries: InvalidArgument, DeadlineExceeded, OK.
        name = "OK" if code is grpc.StatusCode.OK else "".join(word.title() for word in code.name.split("_"))
        self._handled.labels(*labels, name).inc()
