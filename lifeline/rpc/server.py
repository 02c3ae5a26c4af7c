"""The gRPC server of a node: the services, health, reflection, and the limits that hold for every call."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from typing import NamedTuple

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from lifeline.core.errors import ServerError
from lifeline.core.reasons import Reason
from lifeline.core.security import KEEPALIVE, Caller, SecuritySettings, server_credentials
from lifeline.rpc import model_service, operator_service, score_service
from lifeline.rpc import sequence_service as store_service
from lifeline.rpc.arrivals import Arrivals
from lifeline.rpc.callers import Callers
from lifeline.rpc.interceptor import RETRY_AFTER_S, Handler, Pipeline, Stage, around, code_of
from lifeline.rpc.memory_limit import MemoryLimit
from lifeline.rpc.request_limits import RequestLimits
from lifeline.rpc.settings import NodeSettings
from lifeline.rpc.status import Refusal, abort
from lifeline.rpc.waits import SLOT, Slot
from lifeline.v1 import model_pb2_grpc, operator_pb2_grpc, score_pb2_grpc, sequence_pb2_grpc

LIVENESS, READINESS = "liveness", "readiness"
ROUTED = (store_service.SERVICE, score_service.SERVICE)
"""Their requests name a user."""
SERVICES = (*ROUTED, operator_service.SERVICE, model_service.SERVICE)
SERVED = (*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME)

_PATHS, _ROUTED_PATHS = (tuple(f"/{name}/" for name in names) for names in (SERVICES, ROUTED))
# The library lists it, and logs a traceback whenever it is called.
_UNIMPLEMENTED = f"/{health.SERVICE_NAME}/List"
_SPARE_THREADS = 8
_WAITING_CALLS = 1_024
# Each of these holds a thread for as long as its caller likes.
_REFLECTION_STREAMS = 4
_HEALTH_WATCHES = 64
_MIB = 1 << 20
_CONNECTION_OPTIONS = (
    *KEEPALIVE,
    # Whoever pings much more often is cut off.
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
    ("grpc.http2.max_ping_strikes", 2),
    ("grpc.max_metadata_size", 16 << 10),
    ("grpc.absolute_max_metadata_size", 32 << 10),
)
_log = structlog.get_logger(__name__)


class Services(NamedTuple):
    """What a node answers with."""

    sequences: sequence_pb2_grpc.SequenceServiceServicer
    scores: score_pb2_grpc.ScoreServiceServicer
    operators: operator_pb2_grpc.OperatorServiceServicer
    models: model_pb2_grpc.ModelServiceServicer


class NodeServer:
    """Serves until `stop`. Health starts as NOT_SERVING, but for liveness."""

    def __init__(
        self,
        settings: NodeSettings,
        services: Services,
        routing: Stage | None = None,
        calls: Stage | None = None,
        security: SecuritySettings | None = None,
    ) -> None:
        """Listen; `calls` counts them, and `routing` sends those on that belong elsewhere, where they are given.

        Raises ServerError when the address cannot be had, and SecurityError.
        """
        security = security or SecuritySettings()
        addresses = security.listening_addresses(settings.grpc_address)
        self._callers = Callers(security.callers, (health.SERVICE_NAME,), peer_name=security.peer_name)
        most = settings.max_concurrent_rpcs
        options = [
            ("grpc.max_receive_message_length", settings.max_message_mib * _MIB),
            ("grpc.max_send_message_length", settings.max_message_mib * _MIB),
            ("grpc.so_reuseport", 0),
            *_CONNECTION_OPTIONS,
        ]
        memory = MemoryLimit.of(settings.max_memory_mib)
        # What waits holds threads of its own, and a few more tell one call too many so at once.
        threads = most + settings.wait_places + _REFLECTION_STREAMS + _HEALTH_WATCHES + _SPARE_THREADS
        self._arrivals = Arrivals(threads // 2)
        stages = (self._arrivals, calls, self._callers, _Limits(most, memory), routing, RequestLimits())
        self._server = grpc.server(
            ThreadPoolExecutor(threads, thread_name_prefix="grpc"),
            interceptors=[Pipeline([stage for stage in stages if stage is not None], unserved=(_UNIMPLEMENTED,))],
            options=options,
            maximum_concurrent_rpcs=threads + _WAITING_CALLS,
        )
        sequence_pb2_grpc.add_SequenceServiceServicer_to_server(services.sequences, self._server)
        score_pb2_grpc.add_ScoreServiceServicer_to_server(services.scores, self._server)
        operator_pb2_grpc.add_OperatorServiceServicer_to_server(services.operators, self._server)
        model_pb2_grpc.add_ModelServiceServicer_to_server(services.models, self._server)
        # Its calls back lock the server up when one watch ends while another begins.
        self._health = health.HealthServicer(experimental_non_blocking=False)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection(SERVED, self._server)
        self.set_live(live=True)
        self.set_ready(ready=False)
        self.address = self._listen(settings.grpc_address, addresses, server_credentials(security))
        self._server.start()

    def _listen(self, named: str, addresses: Sequence[str], credentials: grpc.ServerCredentials | None) -> str:
        """Listen at what an address stands for; return it with the port that it got. Raises ServerError."""
        host, _, port = named.rpartition(":")
        bound, problem = 0, None
        for address in addresses:
            at = f"{address.rpartition(':')[0]}:{bound}" if bound and port == "0" else address
            try:
                bound = (
                    self._server.add_insecure_port(at)
                    if credentials is None
                    else self._server.add_secure_port(at, credentials)
                )
            except RuntimeError as error:
                # A name may stand for a family of addresses that the machine does not have.
                problem = error
        if not bound:
            self._arrivals.close()
            raise ServerError(
                f"{named} cannot be listened on ({problem}): stop what has the port, or set "
                "--grpc-address / LIFELINE_NODE__GRPC_ADDRESS to another one"
            ) from problem
        return f"{host}:{bound}" if port == "0" else named

    def use_callers(self, callers: Mapping[str, Caller]) -> None:
        """Let these call from now on, and nobody else."""
        self._callers.replace(callers)

    def set_live(self, *, live: bool) -> None:
        """Say whether the process does its work; a supervisor restarts one that does not."""
        self._set(live, LIVENESS)

    def set_ready(self, *, ready: bool) -> None:
        """Say whether calls should come here."""
        self._set(ready, "", READINESS, *SERVICES)

    def stop(self, grace_s: float) -> None:
        """Refuse new calls, let those under way finish within `grace_s` seconds, and stop."""
        self._health.enter_graceful_shutdown()
        self._server.stop(grace_s).wait()
        self._arrivals.close()

    def _set(self, serving: bool, *services: str) -> None:  # noqa: FBT001
        status = health_pb2.HealthCheckResponse
        for service in services:
            self._health.set(service, status.SERVING if serving else status.NOT_SERVING)


class _Limits:
    """Bounds the calls at once, and gives every failure nobody thought of a reason too."""

    def __init__(self, most: int, memory: MemoryLimit) -> None:
        self._most, self._memory = most, memory
        self._free = threading.BoundedSemaphore(most)
        self._reflection = _Streams(_REFLECTION_STREAMS, "reflection streams are open")
        self._watches = _Streams(_HEALTH_WATCHES, "calls watch the health")

    def wrap(self, method: str, handler: Handler) -> Handler:
        if handler.stream_stream is not None:
            # Reflection is the only service that has any.
            return around(handler, self._reflection.opened)
        if handler.unary_stream is not None:
            # Health is the only service that has any.
            return around(handler, self._watches.opened)
        # Health must answer most of all when the node is full.
        if not method.startswith(_PATHS):
            return around(handler, lambda _: nullcontext())
        return around(handler, lambda context: self._call(method, context))

    @contextmanager
    def _call(self, method: str, context: grpc.ServicerContext) -> Iterator[None]:
        slot = Slot(self._free, lambda: _overloaded(self._most, "calls are under way"))
        try:
            slot.take()
        except Refusal as full:
            abort(context, full)
        # Each call has a context of its own.
        SLOT.set(slot)
        try:
            # Whoever looks after the node is let in.
            if method.startswith(_ROUTED_PATHS) and (refusal := self._memory.refusal()) is not None:
                abort(context, refusal)
            yield
        except Exception as error:
            # An abort has set the code before it raised.
            if code_of(context) is None:
                _log.exception("call failed", method=method)
                abort(context, _internal(error))
            raise
        finally:
            slot.give_back()


class _Streams:
    """Bounds the streams of one kind."""

    def __init__(self, most: int, what: str) -> None:
        self._most, self._what = most, what
        self._free = threading.BoundedSemaphore(most)

    @contextmanager
    def opened(self, context: grpc.ServicerContext) -> Iterator[None]:
        if not self._free.acquire(blocking=False):
            abort(context, _overloaded(self._most, self._what))
        try:
            yield
        finally:
            self._free.release()


def _overloaded(most: int, what: str) -> Refusal:
    return Refusal(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        Reason.OVERLOADED,
        f"{most} {what}: retry with exponential back-off, or add nodes",
        limit=str(most),
    ).after(RETRY_AFTER_S)


def _internal(error: Exception) -> Refusal:
    return Refusal(
        grpc.StatusCode.INTERNAL,
        Reason.INTERNAL,
        f"{type(error).__name__}: this is a fault of the node; its log has the traceback: report it",
    )
