"""The standard health service: the status of the node and of each of its services, asked for or watched.

`grpc_health`'s own implementation cannot end its watches: each would hold the server's stop for the whole grace period.
"""

import threading
from collections.abc import Iterator, Sequence

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

_Values = health_pb2.HealthCheckResponse


class HealthService(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # the package has no types
    """Answers Check and Watch. Every method may be called from any thread."""

    def __init__(self) -> None:
        self._statuses: dict[str, int] = {}
        self._is_stopping = False
        self._changed = threading.Condition()

    def set(self, services: Sequence[str], *, serving: bool) -> None:
        """Set the status of services, and tell those who watch them. After `stop` it does nothing."""
        with self._changed:
            if self._is_stopping:
                return
            self._statuses |= dict.fromkeys(services, _Values.SERVING if serving else _Values.NOT_SERVING)
            self._changed.notify_all()

    def stop(self) -> None:
        """End every watch with UNAVAILABLE, and report NOT_SERVING from now on. Idempotent."""
        with self._changed:
            self._is_stopping = True
            self._statuses = dict.fromkeys(self._statuses, _Values.NOT_SERVING)
            self._changed.notify_all()

    def Check(  # noqa: N802 - the name of the method on the wire
        self, request: health_pb2.HealthCheckRequest, context: grpc.ServicerContext
    ) -> health_pb2.HealthCheckResponse:
        """Return the status of a service; NOT_FOUND if there is no such service."""
        with self._changed:
            status = self._statuses.get(request.service)
        if status is None:
            context.set_code(grpc.StatusCode.NOT_FOUND)
            return health_pb2.HealthCheckResponse()
        return health_pb2.HealthCheckResponse(status=status)

    def Watch(  # noqa: N802
        self, request: health_pb2.HealthCheckRequest, context: grpc.ServicerContext
    ) -> Iterator[health_pb2.HealthCheckResponse]:
        """Yield the status of a service, and again at each change, until the caller leaves or the node stops."""
        ended = threading.Event()
        if not context.add_callback(lambda: self._end(ended)):
            return
        sent: int | None = None
        while True:
            with self._changed:
                while not (ended.is_set() or self._is_stopping or self._status(request.service) != sent):
                    self._changed.wait()
                if ended.is_set():
                    return
                status, is_stopping = self._status(request.service), self._is_stopping
            if is_stopping:
                # The protocol's clients watch again, elsewhere or once the node is back.
                context.abort(grpc.StatusCode.UNAVAILABLE, "the node stops: watch again")
            sent = status
            yield health_pb2.HealthCheckResponse(status=status)

    def _status(self, service: str) -> int:
        return self._statuses.get(service, int(_Values.SERVICE_UNKNOWN))

    def _end(self, ended: threading.Event) -> None:
        """Wake the thread of a watch whose call has ended."""
        with self._changed:
            ended.set()
            self._changed.notify_all()
