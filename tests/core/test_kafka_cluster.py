import socket
import threading
import time

import pytest

from lifeline.core.kafka_cluster import check_reachable
from lifeline.core.kafka_errors import ClusterUnreachableError
from lifeline.core.kafka_settings import KafkaSettings


def test_any_of_the_servers_is_enough() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        check_reachable(KafkaSettings(bootstrap_servers=f"127.0.0.1:1,127.0.0.1:{port}", connect_timeout_ms=0))


def test_a_server_that_comes_up_meanwhile_is_waited_for() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        timer = threading.Timer(0.3, server.listen)
        timer.start()
        check_reachable(
            KafkaSettings(bootstrap_servers=f"127.0.0.1:{server.getsockname()[1]}", connect_timeout_ms=20_000)
        )
        timer.join()


def test_none_is_one_sentence_in_time() -> None:
    begun = time.monotonic()
    with pytest.raises(ClusterUnreachableError, match=r"127\.0\.0\.1:1 does not answer \(ConnectionRefusedError\)"):
        check_reachable(KafkaSettings(bootstrap_servers="127.0.0.1:1", connect_timeout_ms=250))
    assert 0.2 < time.monotonic() - begun < 5
