"""A check that the cluster is reachable, before any client library connects."""

import socket
import time

from lifeline.core.kafka_errors import ClusterUnreachableError
from lifeline.core.kafka_settings import KafkaSettings

_POLL_S = 0.1


def check_reachable(settings: KafkaSettings) -> None:
    """Return once any bootstrap server accepts a connection.

    Raises ClusterUnreachableError if none does within ``kafka.connect_timeout_ms``. Without this check the client
    libraries would retry for a long time and leave sockets open.
    """
    deadline = time.monotonic() + settings.connect_timeout_ms / 1000
    while True:
        last: OSError | None = None
        for server in settings.servers:
            host, _, port = server.rpartition(":")
            left_s = max(deadline - time.monotonic(), _POLL_S)
            try:
                with socket.create_connection((host.strip("[]"), int(port)), timeout=left_s):
                    return
            except OSError as error:
                last = error
        if time.monotonic() >= deadline:
            raise ClusterUnreachableError(settings.bootstrap_servers, last or TimeoutError()) from last
        time.sleep(_POLL_S)
