"""The gRPC server of a node: the services, health, reflection, and the limits on all calls."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import grpc
import structlog
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from lifeline.core.errors import ServerError
from lifeline.core.security import KEEPALIVE, Caller, SecuritySettings, server_credentials
from lifeline.rpc import model_service, operator_service, score_service
from lifeline.rpc import sequence_service as store_service
from lifeline.rpc.authorization import Authorization
from lifeline.rpc.concurrency import REFLECTION_STREAMS, STREAMS, ConcurrencyLimit
from lifeline.rpc.health_service import HealthService
from lifeline.rpc.interceptor import Pipeline, Stage
from lifeline.rpc.memory_limit import MemoryLimit
from lifeline.rpc.request_limits import RequestLimits
from lifeline.rpc.request_streams import RequestStreams
from lifeline.rpc.request_timeout import RequestTimeout
from lifeline.rpc.settings import NodeSettings
from lifeline.v1 import model_pb2_grpc, operator_pb2_grpc, score_pb2_grpc, sequence_pb2_grpc

LIVENESS, READINESS = "liveness", "readiness"
USER_SERVICES = (store_service.SERVICE, score_service.SERVICE)
"""Services whose requests have a user id."""
SERVICES = (*USER_SERVICES, operator_service.SERVICE, model_service.SERVICE)
ALL_SERVICES = (*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME)

# `HealthService` does not implement this method, and the library would log a traceback at every call.
_UNIMPLEMENTED = f"/{health.SERVICE_NAME}/List"
_SPARE_THREADS = 8
_WAITING_CALLS = 1_024
_MIB = 1 << 20
_CONNECTION_OPTIONS = (
    *KEEPALIVE,
    # A client that pings much more often is disconnected.
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
    ("grpc.http2.max_ping_strikes", 2),
    ("grpc.max_metadata_size", 16 << 10),
    ("grpc.absolute_max_metadata_size", 32 << 10),
)
_log = structlog.get_logger(__name__)


class Services(NamedTuple):
    """The implementations of the services."""

    sequences: sequence_pb2_grpc.SequenceServiceServicer
    scores: score_pb2_grpc.ScoreServiceServicer
    operators: operator_pb2_grpc.OperatorServiceServicer
    models: model_pb2_grpc.ModelServiceServicer


class NodeServer:
    """Serves until `stop`. Health is NOT_SERVING at first, except liveness."""

    def __init__(
        self,
        settings: NodeSettings,
        services: Services,
        routing: Stage | None = None,
        calls: Stage | None = None,
        security: SecuritySettings | None = None,
    ) -> None:
        """Listen and start. `routing` forwards calls for other nodes' partitions; `calls` counts calls for metrics.

        Raises ServerError if the server cannot listen on the address, and SecurityError.
        """
        security = security or SecuritySettings()
        addresses = security.listening_addresses(settings.grpc_address)
        self._authorization = Authorization(security.callers, (health.SERVICE_NAME,), peer_name=security.peer_name)
        max_calls = settings.max_concurrent_rpcs
        options = [
            ("grpc.max_receive_message_length", settings.max_message_mib * _MIB),
            ("grpc.max_send_message_length", settings.max_message_mib * _MIB),
            ("grpc.so_reuseport", 0),
            *_CONNECTION_OPTIONS,
        ]
        memory = MemoryLimit.of(settings.max_memory_mib)
        # Waiting calls and streams hold threads of their own; the spare ones refuse excess calls at once.
        threads = max_calls + settings.wait_places + STREAMS + _SPARE_THREADS
        self._request_timeout = RequestTimeout(threads // 2)
        self._request_streams = RequestStreams(REFLECTION_STREAMS)
        limit = ConcurrencyLimit(max_calls, memory, SERVICES, USER_SERVICES)
        stages = (
            self._request_timeout,
            calls,
            self._authorization,
            limit,
            routing,
            RequestLimits(),
            self._request_streams,
        )
        self._server = grpc.server(
            ThreadPoolExecutor(threads, thread_name_prefix="grpc"),
            interceptors=[Pipeline([stage for stage in stages if stage is not None], unimplemented=(_UNIMPLEMENTED,))],
            options=options,
            maximum_concurrent_rpcs=threads + _WAITING_CALLS,
        )
        sequence_pb2_grpc.add_SequenceServiceServicer_to_server(services.sequences, self._server)
        score_pb2_grpc.add_ScoreServiceServicer_to_server(services.scores, self._server)
        operator_pb2_grpc.add_OperatorServiceServicer_to_server(services.operators, self._server)
        model_pb2_grpc.add_ModelServiceServicer_to_server(services.models, self._server)
        self._health = HealthService()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection(ALL_SERVICES, self._server)
        self.set_live(live=True)
        self.set_ready(ready=False)
        self.address = self._listen(settings.grpc_address, addresses, server_credentials(security))
        self._server.start()

    def _listen(self, named: str, addresses: Sequence[str], credentials: grpc.ServerCredentials | None) -> str:
        """Listen on all `addresses`; return `named` with the bound port. Raises ServerError."""
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
                # A name may resolve to an address family that this machine lacks.
                problem = error
        if not bound:
            self._request_timeout.close()
            raise ServerError(
                f"cannot listen on {named} ({problem}): stop the process that uses the port, or set "
                "--grpc-address / LIFELINE_NODE__GRPC_ADDRESS to another address"
            ) from problem
        return f"{host}:{bound}" if port == "0" else named

    def use_callers(self, callers: Mapping[str, Caller]) -> None:
        """Accept calls from these callers only, from now on."""
        self._authorization.replace(callers)

    def set_live(self, *, live: bool) -> None:
        """Set liveness: a supervisor restarts a process that is not live."""
        self._health.set((LIVENESS,), serving=live)

    def set_ready(self, *, ready: bool) -> None:
        """Set readiness: whether calls should be sent to this node."""
        self._health.set(("", READINESS, *SERVICES), serving=ready)

    def refuse_calls(self, grace_s: float) -> Callable[[], None]:
        """Refuse new calls, end all streams, and give the calls under way `grace_s` seconds to finish.

        It returns at once, with a function that waits for the end of the last call. A call that has not sent its
        request gets a second.
        """
        ended = self._server.stop(grace_s)
        self._health.stop()
        self._request_streams.stop()
        self._request_timeout.hurry()

        def wait() -> None:
            ended.wait()
            self._request_timeout.close()

        return wait

    def stop(self, grace_s: float) -> None:
        """Refuse new calls, wait at most `grace_s` seconds for those under way, and stop."""
        self.refuse_calls(grace_s)()
