"""A check that the cluster is reachable, before any client library connects, and the errors of those libraries."""

import socket
import time
from collections.abc import Iterable, Mapping
from typing import Any

from lifeline.core.kafka_errors import BrokerAddressError, ClusterRequestError, ClusterUnreachableError, StreamError
from lifeline.core.kafka_settings import KafkaSettings

_POLL_S = 0.1
# kafka-python and aiokafka have classes of their own under the same names.
_CONNECTION_ERRORS = frozenset(
    {
        "Cancelled",
        "CorrelationIdError",
        "KafkaConnectionError",
        "KafkaTimeoutError",
        "KafkaUnavailableError",
        "MetadataEmptyBrokerList",
        "NoBrokersAvailable",
        "NodeNotReadyError",
        "RequestTimedOutError",
        "StaleMetadata",
        "UnknownBrokerIdError",
    }
)
# aiokafka has no class of its own for this error.
_NO_METADATA = "Unable to get cluster metadata over all known brokers"


def check_reachable(settings: KafkaSettings) -> None:
    """Return once any bootstrap server accepts a connection.

    Raises ClusterUnreachableError if none does within ``kafka.connect_timeout_ms``. Without this check the client
    libraries would retry for a long time and leave sockets open.
    """
    servers = {}
    for server in settings.servers:
        host, _, port = server.rpartition(":")
        servers[server] = (host.strip("[]"), int(port))
    failures = _connect_to_any(servers, settings)
    if failures is not None:
        last = next(reversed(failures.values()), None) or TimeoutError()
        raise ClusterUnreachableError(settings.bootstrap_servers, last) from last


def addresses_of(cluster: Any) -> frozenset[tuple[str, int]]:  # noqa: ANN401 - two libraries without types
    """Return host and port of each broker, as the cluster gives them, from a client library's ``ClusterMetadata``."""
    return frozenset((str(broker.host), int(broker.port)) for broker in cluster.brokers())


def check_brokers(settings: KafkaSettings, addresses: Iterable[tuple[str, int]]) -> None:
    """Return once any of the addresses that the cluster gives its brokers accepts a connection.

    Clients use the bootstrap servers only to learn these addresses. Raises BrokerAddressError if none accepts one
    within ``kafka.connect_timeout_ms``. Without this check the client libraries would retry for a long time, and then
    not say which address they tried.
    """
    brokers = {_join(host, port): (host, port) for host, port in addresses}
    if not brokers or not brokers.keys().isdisjoint(settings.servers):
        return
    failures = _connect_to_any(brokers, settings)
    if failures is not None:
        raise BrokerAddressError(settings.bootstrap_servers, failures) from next(iter(failures.values()))


def _connect_to_any(addresses: Mapping[str, tuple[str, int]], settings: KafkaSettings) -> dict[str, OSError] | None:
    """Return None once one of the addresses accepts a connection; by name why none does, after the timeout."""
    deadline = time.monotonic() + settings.connect_timeout_ms / 1000
    while True:
        failures: dict[str, OSError] = {}
        for name, address in addresses.items():
            left_s = max(deadline - time.monotonic(), _POLL_S)
            try:
                with socket.create_connection(address, timeout=left_s):
                    return None
            except OSError as error:
                failures[name] = error
        if time.monotonic() >= deadline:
            return failures
        time.sleep(_POLL_S)


def _join(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def cluster_error(settings: KafkaSettings, error: BaseException) -> StreamError:
    """Return the error to raise for `error`, a KafkaError of a client library or an OSError of its connection.

    Only a failure to connect, and a reply that does not come, mean that the cluster is unreachable.
    """
    name = type(error).__name__
    is_unreachable = isinstance(error, OSError) or name in _CONNECTION_ERRORS or str(error).endswith(_NO_METADATA)
    return (ClusterUnreachableError if is_unreachable else ClusterRequestError)(settings.bootstrap_servers, error)
