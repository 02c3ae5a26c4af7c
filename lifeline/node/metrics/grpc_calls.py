"""Counts and times of gRPC calls, under the names that the Go and Java libraries made standard."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
from prometheus_client import CollectorRegistry, Counter, Histogram

from lifeline.node.metrics.catalogue import GRPC_HANDLED, GRPC_SECONDS, GRPC_STARTED
from lifeline.rpc.interceptor import Handler, code_of

Behaviour = Callable[[Any, grpc.ServicerContext], Any]


class CallMetrics:
    """The outermost stage: it counts what callers see."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.started = Counter(GRPC_STARTED.name, GRPC_STARTED.help, GRPC_STARTED.labels, registry=registry)
        self.handled = Counter(GRPC_HANDLED.name, GRPC_HANDLED.help, GRPC_HANDLED.labels, registry=registry)
        self.seconds = Histogram(
            GRPC_SECONDS.name, GRPC_SECONDS.help, GRPC_SECONDS.labels, buckets=GRPC_SECONDS.buckets, registry=registry
        )

    def wrap(self, method: str, handler: Handler) -> Handler:
        """Wrap the handler, whatever streams it has."""
        _, service, name = method.split("/")
        kinds: dict[tuple[bool, bool], tuple[str, str, Callable[..., Any]]] = {
            (False, False): ("unary", "unary_unary", grpc.unary_unary_rpc_method_handler),
            (False, True): ("server_stream", "unary_stream", grpc.unary_stream_rpc_method_handler),
            (True, False): ("client_stream", "stream_unary", grpc.stream_unary_rpc_method_handler),
            (True, True): ("bidi_stream", "stream_stream", grpc.stream_stream_rpc_method_handler),
        }
        kind, attribute, make = kinds[bool(handler.request_streaming), bool(handler.response_streaming)]
        count = _MethodCount(self, (kind, service, name))
        behaviour: Behaviour = getattr(handler, attribute)
        wrapped = _stream(behaviour, count) if handler.response_streaming else _unary(behaviour, count)
        made: Handler = make(
            wrapped,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )
        return made


class _MethodCount:
    """The metrics of one method."""

    def __init__(self, metrics: CallMetrics, labels: tuple[str, str, str]) -> None:
        self._started, self._seconds = metrics.started.labels(*labels), metrics.seconds.labels(*labels)
        self._metrics, self._labels = metrics, labels
        self._handled: dict[grpc.StatusCode, Counter] = {}

    def begin(self) -> float:
        """Count a call; return when it began."""
        self._started.inc()
        return time.perf_counter()

    def end(self, started: float, context: grpc.ServicerContext, *, failed: bool) -> None:
        """Count how a call ended."""
        self._seconds.observe(time.perf_counter() - started)
        code = code_of(context)
        if code is None:
            code = grpc.StatusCode.UNKNOWN if failed else grpc.StatusCode.OK
        if code not in self._handled:
            # Created on first use, so that a status without calls has no row.
            self._handled[code] = self._metrics.handled.labels(*self._labels, _word_of(code))
        self._handled[code].inc()


def _word_of(code: grpc.StatusCode) -> str:
    """Return a status in the words of the other languages' libraries: InvalidArgument, DeadlineExceeded, OK."""
    return "OK" if code is grpc.StatusCode.OK else "".join(word.title() for word in code.name.split("_"))


def _unary(behaviour: Behaviour, count: _MethodCount) -> Behaviour:
    def counted(request: Any, context: grpc.ServicerContext) -> Any:  # noqa: ANN401 - any message
        started = count.begin()
        try:
            reply = behaviour(request, context)
        except BaseException:
            count.end(started, context, failed=True)
            raise
        count.end(started, context, failed=False)
        return reply

    return counted


def _stream(behaviour: Behaviour, count: _MethodCount) -> Behaviour:
    def counted(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:  # noqa: ANN401 - any message
        started = count.begin()
        failed = True
        try:
            yield from behaviour(request, context)
            failed = False
        finally:
            count.end(started, context, failed=failed)

    return counted
