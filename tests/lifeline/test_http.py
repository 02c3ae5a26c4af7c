import http.client
import socket
from collections.abc import Iterator
from contextlib import closing

import pytest
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.parser import text_string_to_metric_families

from lifeline.errors import ServerError
from lifeline.health import Health
from lifeline.http import HttpServer
from tests.lifeline.test_health import SERVING, health


@pytest.fixture
def node() -> Health:
    return health(SERVING)


@pytest.fixture
def server(node: Health) -> Iterator[HttpServer]:
    registry = CollectorRegistry()
    Counter("lifeline_records_total", "Records.", registry=registry).inc(3)
    running = HttpServer("127.0.0.1:0", node, registry)
    yield running
    running.stop()


def get(server: HttpServer, path: str, **headers: str) -> tuple[int, str, str]:
    with closing(http.client.HTTPConnection(server.address, timeout=60)) as connection:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode(), answer.headers["Content-Type"]


def test_metrics_come_as_text_and_as_openmetrics(server: HttpServer) -> None:
    status, text, content_type = get(server, "/metrics")
    assert status == 200
    assert content_type.startswith("text/plain")
    (family,) = [one for one in text_string_to_metric_families(text) if one.name == "lifeline_records"]
    assert family.samples[0].value == 3
    _, text, content_type = get(server, "/metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    assert text.endswith("# EOF\n")


def test_health_is_a_word_and_with_verbose_a_line_for_each_check(server: HttpServer, node: Health) -> None:
    assert get(server, "/livez")[:2] == (200, "ok\n")
    assert get(server, "/readyz")[:2] == (200, "ok\n")
    status, text, _ = get(server, "/readyz?verbose")
    assert status == 200
    assert text.splitlines() == [
        "[+]running ok",
        "[+]assigned ok",
        "[+]items ok",
        "[+]partition-3 serving",
        "readyz check passed",
    ]
    node.items_synced = False
    status, text, _ = get(server, "/readyz")
    assert status == 503
    assert text.splitlines() == ["[-]items the items topic is being read", "readyz check failed"]
    assert get(server, "/livez?verbose")[0] == 200


def test_another_path_says_what_there_is(server: HttpServer, node: Health) -> None:
    status, text, _ = get(server, "/")
    assert status == 404
    assert "/readyz" in text
    without = HttpServer("127.0.0.1:0", node, None)
    try:
        assert get(without, "/metrics")[:2] == (404, "metrics are off: set node.metrics\n")
    finally:
        without.stop()


def test_a_slow_caller_holds_up_nobody(server: HttpServer) -> None:
    host, _, port = server.address.rpartition(":")
    with socket.create_connection((host, int(port))) as silent:
        silent.sendall(b"GET /livez HTTP/1.1\r\n")
        assert get(server, "/livez")[0] == 200


def test_an_address_that_is_taken_is_one_sentence(server: HttpServer, node: Health) -> None:
    with pytest.raises(ServerError, match="set --http-address"):
        HttpServer(server.address, node, None)
