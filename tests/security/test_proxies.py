"""The proxy that a shell or a cluster names in the environment: no call of ours takes it unasked."""

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Self

import pytest
from typer.testing import CliRunner

from lifeline.cli import app
from lifeline.client import LifelineClient, LifelineError
from lifeline.core.security import CallSecurity, SecuritySettings
from lifeline.node.peer import ask_owner
from lifeline.store.embeddings import EmbeddingTable
from lifeline.v1 import sequence_pb2, sequence_pb2_grpc
from tests.support.routed_nodes import COUNT, USERS, Node, owned_by
from tests.support.secure_servers import CALLERS, Authority, call, server_of, serving


class Proxy:
    """Listens, and keeps the first line of each request; answers 502."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                with connection:
                    connection.settimeout(10)
                    self.requests.append(connection.recv(4_096).split(b"\r\n")[0].decode())
                    connection.sendall(b"HTTP/1.1 502 Bad Gateway\r\n\r\n")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    for name in ("no_proxy", "NO_PROXY", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
    with Proxy() as running:
        for name in ("http_proxy", "https_proxy", "grpc_proxy"):
            monkeypatch.setenv(name, running.url)
        # gRPC's other way to a proxy, by the address that a name resolves to.
        monkeypatch.setenv("GRPC_ADDRESS_HTTP_PROXY", running.url.removeprefix("http://"))
        monkeypatch.setenv("GRPC_ADDRESS_HTTP_PROXY_ENABLED_ADDRESSES", "127.0.0.0/8,0.0.0.0")
        yield running


@pytest.fixture
def table(tmp_path: Path) -> Iterator[EmbeddingTable]:
    opened = EmbeddingTable.open(tmp_path / "items")
    yield opened
    opened.close()


def elsewhere(address: str) -> str:
    """Return an address of the same port that does not count as loopback, although it leads there."""
    return f"0.0.0.0:{address.rpartition(':')[2]}"


async def test_clients_and_commands_call_directly(proxy: Proxy, authority: Authority) -> None:
    with serving(SecuritySettings()) as (server, _):
        for address in (server.address, server.address.replace("127.0.0.1", "localhost"), elsewhere(server.address)):
            with LifelineClient(address, timeout_s=10, retry=False) as client:
                client.get_sequence("ann")
            for command in (["health", "--service", "liveness"], ["get", "ann"]):
                done = CliRunner().invoke(app, [*command, "--address", address])
                assert done.exit_code == 0, done.output
            async with CallSecurity().aio_channel(address, ()) as channel:
                stub = sequence_pb2_grpc.SequenceServiceStub(channel)
                await stub.GetSequence(sequence_pb2.GetSequenceRequest(user_id="ann"), timeout=10)
    with serving(SecuritySettings.model_validate({"callers": CALLERS})) as (server, _):
        call(server, token="read")
    with serving(server_of(authority, callers=CALLERS)) as (server, _):
        call(server, ca=authority.ca, token="read")
    assert proxy.requests == []


async def test_nodes_call_each_other_directly(proxy: Proxy, table: EmbeddingTable) -> None:
    # Nodes do so whatever their clients are told.
    security = SecuritySettings(use_proxy=True)
    with ExitStack() as stack:
        first, second = (Node(stack, table, "forward", security) for _ in range(2))
        for number in range(COUNT):
            second.directory.announce(number)
        for address in (second.address, elsewhere(second.address)):
            first.owners.update(owned_by(*[address] * COUNT))
            call(first.server, user=USERS[0])
        assert [marked for _, marked, _ in second.services.asked] == [True, True]
        with pytest.raises(ConnectionError, match="INTERNAL"):
            # The service of the tests answers nothing: INTERNAL means that it was reached.
            await ask_owner(elsewhere(second.address), [0], security)
    assert proxy.requests == []


def test_a_proxy_is_taken_when_it_is_asked_for_but_not_to_loopback(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GRPC_ADDRESS_HTTP_PROXY")
    with serving(SecuritySettings()) as (server, _):
        call(server, use_proxy=True)
        assert proxy.requests == []
        calls = CallSecurity.of(SecuritySettings(use_proxy=True))
        with (
            LifelineClient(elsewhere(server.address), timeout_s=5, retry=False, security=calls) as client,
            pytest.raises(LifelineError),
        ):
            client.get_sequence("ann")
    assert proxy.requests
    assert set(proxy.requests) == {f"CONNECT {elsewhere(server.address)} HTTP/1.1"}
