"""Counts and durations of gRPC calls, with the metric names of the Go and Java libraries."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import grpc
from prometheus_client import CollectorRegistry, Counter, Histogram

from lifeline.node.metrics.catalogue import GRPC_HANDLED, GRPC_SECONDS, GRPC_STARTED
from lifeline.rpc.interceptor import Handler, around, code_of

_KINDS = {
    (False, False): "unary",
    (False, True): "server_stream",
    (True, True): "bidi_stream",
}
"""By (request streams, response streams)."""


class CallMetrics:
    """The outermost stage of the server: it counts calls as callers see them."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.started = Counter(GRPC_STARTED.name, GRPC_STARTED.help, GRPC_STARTED.labels, registry=registry)
        self.handled = Counter(GRPC_HANDLED.name, GRPC_HANDLED.help, GRPC_HANDLED.labels, registry=registry)
        self.seconds = Histogram(
            GRPC_SECONDS.name, GRPC_SECONDS.help, GRPC_SECONDS.labels, buckets=GRPC_SECONDS.buckets, registry=registry
        )

    def wrap(self, method: str, handler: Handler) -> Handler:
        """Wrap a handler of any kind, unary or streaming."""
        _, service, name = method.split("/")
        kind = _KINDS[bool(handler.request_streaming), bool(handler.response_streaming)]
        return around(handler, _MethodCount(self, (kind, service, name)).counted)


class _MethodCount:
    """The metrics of one method."""

    def __init__(self, metrics: CallMetrics, labels: tuple[str, str, str]) -> None:
        self._started, self._seconds = metrics.started.labels(*labels), metrics.seconds.labels(*labels)
        self._metrics, self._labels = metrics, labels
        self._handled: dict[grpc.StatusCode, Counter] = {}

    @contextmanager
    def counted(self, context: grpc.ServicerContext) -> Iterator[None]:
        """Count the start, the status and the duration of a call."""
        self._started.inc()
        started = time.perf_counter()
        failed = True
        try:
            yield
            failed = False
        finally:
            self._seconds.observe(time.perf_counter() - started)
            code = code_of(context)
            if code is None:
                code = grpc.StatusCode.UNKNOWN if failed else grpc.StatusCode.OK
            if code not in self._handled:
                # Create the series of a status with its first call.
                self._handled[code] = self._metrics.handled.labels(*self._labels, _word_of(code))
            self._handled[code].inc()


def _word_of(code: grpc.StatusCode) -> str:
    """Return a status as the libraries of other languages write it: InvalidArgument, DeadlineExceeded, OK."""
    return "OK" if code is grpc.StatusCode.OK else "".join(word.title() for word in code.name.split("_"))
