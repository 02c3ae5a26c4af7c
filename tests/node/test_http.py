import http.client
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from select import select

import pytest
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.parser import text_string_to_metric_families

from lifeline.core.errors import ServerError
from lifeline.node import http as module
from lifeline.node.health import Check, Health
from lifeline.node.http import HttpServer
from tests.support.node_health import SERVING, health


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
    (family,) = [metric for metric in text_string_to_metric_families(text) if metric.name == "lifeline_records"]
    assert family.samples[0].value == 3
    _, text, content_type = get(server, "/metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    assert text.endswith("# EOF\n")


def test_a_server_starts_again_on_a_port_whose_connections_it_has_closed(node: Health) -> None:
    first = HttpServer("127.0.0.1:0", node, None)
    try:
        host, port = first.address.split(":")
        with socket.create_connection((host, int(port)), 60) as connection:
            connection.sendall(b"GET /livez HTTP/1.1\r\nConnection: close\r\n\r\n")
            while connection.recv(4_096):
                pass
    finally:
        first.stop()
    second = HttpServer(first.address, node, None)
    try:
        assert get(second, "/livez")[0] == 200
    finally:
        second.stop()


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
    node.has_synced_items = False
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


def slow(server: HttpServer) -> socket.socket:
    host, _, port = server.address.rpartition(":")
    connection = socket.create_connection((host, int(port)), timeout=60)
    connection.sendall(b"GET /livez HTTP/1.1\r\nHost: ")
    return connection


def threads() -> int:
    return sum("process_request_thread" in thread.name for thread in threading.enumerate())


def test_health_answers_under_a_flood_of_slow_connections(server: HttpServer) -> None:
    with ExitStack() as stack:
        flood = [stack.enter_context(slow(server)) for _ in range(5 * module._CONNECTIONS)]
        assert get(server, "/livez")[:2] == (200, "ok\n")
        # The oldest had to go, and so did their threads.
        assert all(gone(each) for each in flood[: 3 * module._CONNECTIONS])
        assert threads() <= module._THREADS
        assert get(server, "/readyz")[0] == 200


def gone(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def test_a_request_that_dribbles_in_is_ended(server: HttpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_HEAD_S", 0.3)
    with slow(server) as dribbling, slow(server) as silent:
        deadline = time.monotonic() + 60
        with suppress(BrokenPipeError, ConnectionResetError):
            while time.monotonic() < deadline and not select([dribbling], [], [], 0.02)[0]:
                dribbling.sendall(b"x")
        assert gone(dribbling)
        assert gone(silent)
        assert time.monotonic() < deadline


def test_connections_that_do_not_end_cost_newcomers_a_503_and_no_thread(
    server: HttpServer, node: Health, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_CONNECTIONS", 2)
    monkeypatch.setattr(module, "_THREADS", 4)
    hanging, answered = threading.Event(), node.live

    def hang() -> list[Check]:
        assert hanging.wait(60)
        return answered()

    monkeypatch.setattr(node, "live", hang)
    with ExitStack() as stack:
        try:
            for _ in range(4):
                stack.enter_context(slow(server)).sendall(b"x\r\n\r\n")
            until(lambda: len(server._server._open) == 4)
            with slow(server) as refused:
                assert refused.recv(1024).startswith(b"HTTP/1.1 503 ")
            assert threads() <= 4
        finally:
            hanging.set()
    monkeypatch.undo()
    until(lambda: not server._server._open)
    assert get(server, "/livez")[0] == 200


def test_only_so_many_scrapes_at_once(server: HttpServer) -> None:
    for _ in range(module._SCRAPES):
        assert server._server.scrapes.acquire(timeout=60)
    assert get(server, "/metrics")[0] == 503
    assert get(server, "/livez")[0] == 200
    server._server.scrapes.release()
    assert get(server, "/metrics")[0] == 200
    assert get(server, "/metrics")[0] == 200


@pytest.mark.parametrize("head", [b"GET /" + b"x" * 20_000, b"GET /livez HTTP/1.1\r\n" + b"a: b\r\n" * 4_000])
def test_a_head_that_is_too_long_is_refused(server: HttpServer, head: bytes) -> None:
    with slow(server) as connection, suppress(BrokenPipeError, ConnectionResetError):
        connection.sendall(head)
        answer = b"".join(iter(lambda: connection.recv(65_536), b""))
        assert answer.startswith(b"HTTP/1.1 431 ")
    assert get(server, "/livez")[0] == 200


def test_a_connection_serves_many_requests_but_none_behind_a_body(server: HttpServer) -> None:
    host, _, port = server.address.rpartition(":")
    request = b"GET /livez HTTP/1.1\r\nHost: x\r\n"
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(2 * (request + b"\r\n") + request + b"Content-Length: 50\r\n\r\n" + request + b"\r\n")
        answers = b"".join(iter(lambda: connection.recv(65_536), b""))
    assert answers.count(b"HTTP/1.1 200 ") == 3


def test_a_reason_is_one_line(server: HttpServer, monkeypatch: pytest.MonkeyPatch, node: Health) -> None:
    monkeypatch.setattr(node, "live", lambda: [Check("partition-3", ok=False, detail="bad\n[+]forged ok\x1b[31m")])
    assert get(server, "/livez")[1].splitlines() == [r"[-]partition-3 bad\n[+]forged ok\x1b[31m", "livez check failed"]


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_an_address_that_is_taken_is_one_sentence(server: HttpServer, node: Health) -> None:
    with pytest.raises(ServerError, match="set --http-address"):
        HttpServer(server.address, node, None)
