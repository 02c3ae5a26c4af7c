import re
import socket
import threading
import time

import aiokafka.errors
import kafka.errors
import pytest

from lifeline.core.kafka_cluster import check_reachable, cluster_error
from lifeline.core.kafka_errors import ClusterRequestError, ClusterUnreachableError
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


@pytest.mark.parametrize(
    "error",
    [
        ConnectionRefusedError(),
        TimeoutError(),
        aiokafka.errors.KafkaConnectionError("no connection"),
        aiokafka.errors.KafkaError("Unable to get cluster metadata over all known brokers"),
        aiokafka.errors.NodeNotReadyError(),
        kafka.errors.KafkaTimeoutError("Unable to bootstrap"),
        kafka.errors.NodeNotReadyError(),
    ],
)
def test_only_a_lost_connection_means_that_the_cluster_does_not_answer(error: Exception) -> None:
    settings = KafkaSettings(bootstrap_servers="broker:1")
    assert isinstance(cluster_error(settings, error), ClusterUnreachableError)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (aiokafka.errors.UnsupportedCodecError("zstd"), r"UnsupportedCodecError: zstd\): see the broker's log"),
        (kafka.errors.KafkaConfigurationError("acks"), r"KafkaConfigurationError: acks\): see the broker's log"),
        (aiokafka.errors.TopicAuthorizationFailedError("actions"), r"actions\): give this login the right"),
        (kafka.errors.GroupAuthorizationFailedError(), r"GroupAuthorizationFailedError.*\): give this login the right"),
        (kafka.errors.UnsupportedSaslMechanismError(), r"correct kafka\.sasl_mechanism"),
        (aiokafka.errors.KafkaError("anything"), "anything"),
    ],
)
def test_any_other_error_says_what_the_cluster_said(error: Exception, message: str) -> None:
    told = cluster_error(KafkaSettings(bootstrap_servers="broker:1"), error)
    assert isinstance(told, ClusterRequestError)
    assert re.search(f"Kafka at broker:1 answers, but a request failed .*{message}", str(told))
