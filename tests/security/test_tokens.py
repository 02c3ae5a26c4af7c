"""Where tokens go: never in the clear to another machine, and only to nodes that the CA has signed."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest
from pydantic import SecretStr
from typer.testing import CliRunner

from lifeline.cli import app
from lifeline.client import LifelineClient, LifelineError
from lifeline.core.errors import SecurityError
from lifeline.core.security import CallSecurity, SecuritySettings, token_hash
from lifeline.node.peer import ask_owner
from lifeline.store.embeddings import EmbeddingTable
from tests.support.name_resolution import resolving
from tests.support.routed_nodes import COUNT, USERS, Node, owned_by
from tests.support.secure_servers import CALLERS, Authority, call, refusal, server_of, serving


@pytest.fixture
def table(tmp_path: Path) -> Iterator[EmbeddingTable]:
    opened = EmbeddingTable.open(tmp_path / "items")
    yield opened
    opened.close()


# -- where a token goes ------------------------------------------------------------------------------------------------


async def test_a_token_does_not_leave_the_machine_in_the_clear(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = CallSecurity.of(SecuritySettings(token=SecretStr("secret-token")))
    resolving(monkeypatch, "192.0.2.1")
    for address in ("127.attacker.example:50051", "192.0.2.1:50051", "localhost:50051"):
        with pytest.raises(SecurityError, match=r"would be sent to .* unencrypted: set security\.ca") as caught:
            LifelineClient(address, security=calls)
        assert "secret-token" not in str(caught.value)
        with pytest.raises(SecurityError, match="unencrypted"):
            calls.aio_channel(address, ())
    # Without a token it is the caller's own matter.
    LifelineClient("127.attacker.example:50051").close()


def test_every_command_that_calls_refuses_to_send_a_token_in_the_clear(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIFELINE_SECURITY__TOKEN", "secret-token")
    for command in (
        ["get", "ann"],
        ["score", "ann", "1"],
        ["explain", "ann", "1"],
        ["partitions"],
        ["model", "show"],
        ["model", "use"],
        ["snapshot", "create"],
    ):
        done = CliRunner().invoke(app, [*command, "--address", "192.0.2.1:50051"])
        assert isinstance(done.exception, SecurityError), (command, done.output, done.exception)


def test_no_proxy_takes_a_token_from_loopback_to_another_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as proxy, serving(
        SecuritySettings.model_validate({"callers": CALLERS})
    ) as (server, _):  # fmt: skip
        proxy.setblocking(False)
        for name in ("no_proxy", "NO_PROXY", "no_grpc_proxy"):
            monkeypatch.delenv(name, raising=False)
        for name in ("http_proxy", "https_proxy", "grpc_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.getsockname()[1]}")
        call(server, token="read")
        with pytest.raises(BlockingIOError):
            proxy.accept()


def test_tls_without_a_ca_trusts_the_authorities_of_the_system(
    authority: Authority, other_authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(server_of(authority, callers=CALLERS)) as (server, _):
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.ca))
        call(server, tls=True, token="read")
        monkeypatch.setenv("SSL_CERT_FILE", str(other_authority.ca))
        assert refusal(server, tls=True, token="read").reason == "SERVER_NOT_TRUSTED"


# -- what is forwarded -------------------------------------------------------------------------------------------------


class Pair:
    """A node that forwards or redirects, and what a member of its group advertises as the owner of everything."""

    def __init__(
        self,
        stack: ExitStack,
        table: EmbeddingTable,
        node_security: SecuritySettings,
        owner_security: SecuritySettings,
        *,
        redirect: bool = False,
    ) -> None:
        self.node = Node(stack, table, "redirect" if redirect else "forward", node_security)
        self.other = Node(stack, table, "redirect", owner_security)
        for number in range(COUNT):
            self.other.directory.announce(number)
        self.advertise(self.other.address)

    def advertise(self, address: str) -> None:
        self.node.owners.update(owned_by(*[address] * COUNT))


def test_a_forwarded_call_has_the_rights_of_its_caller(table: EmbeddingTable) -> None:
    security = SecuritySettings.model_validate({"callers": CALLERS, "token": "all", "peer_token": "peer"})
    # The owner lets the same caller do less, and that is what holds.
    less = CALLERS | {"reader": {"token_sha256": token_hash("read"), "methods": ["Score"]}}
    with ExitStack() as stack:
        pair = Pair(stack, table, security, SecuritySettings.model_validate({"callers": less}))
        error = refusal(pair.node.server, user=USERS[0], token="read")
        assert (error.reason, error.metadata["caller"]) == ("METHOD_NOT_ALLOWED", "reader")
        call(pair.node.server, user=USERS[0], token="all")
        assert pair.other.services.tokens == ["Bearer all"]


def test_no_token_goes_to_an_address_whose_certificate_our_ca_did_not_sign(
    authority: Authority, other_authority: Authority, table: EmbeddingTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever joins the group may advertise an address of its own, with a certificate that everybody trusts."""
    monkeypatch.setenv("SSL_CERT_FILE", str(other_authority.ca))
    with ExitStack() as stack:
        signed = server_of(authority, callers=CALLERS, ca=authority.ca, token="all", peer_token="peer")
        pair = Pair(stack, table, signed, server_of(other_authority))
        assert refusal(pair.node.server, user=USERS[0], ca=authority.ca, token="read").reason == "OWNER_UNREACHABLE"
        assert pair.other.services.asked == []
    with ExitStack() as stack:
        public = server_of(other_authority, callers=CALLERS, tls=True, token="all", peer_token="peer")
        pair = Pair(stack, table, public, server_of(other_authority))
        error = refusal(pair.node.server, user=USERS[0], tls=True, token="read")
        assert (error.code, error.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "OWNER_NOT_TRUSTED")
        assert "set security.ca on the nodes" in error.message
        assert pair.other.services.asked == []


def test_no_token_is_forwarded_off_loopback_in_the_clear(
    table: EmbeddingTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    security = SecuritySettings.model_validate({"callers": CALLERS, "token": "all", "peer_token": "peer"})
    with ExitStack() as stack:
        pair = Pair(stack, table, security, SecuritySettings())
        call(pair.node.server, user=USERS[0], token="read")
        assert pair.other.services.tokens == ["Bearer read"]
        address = f"127.attacker.example:{pair.other.address.rpartition(':')[2]}"
        pair.advertise(address)
        with LifelineClient(
            pair.node.address, retry=False, timeout_s=10, security=CallSecurity(token=lambda: "read")
        ) as client:
            resolving(monkeypatch, "192.0.2.1")
            with pytest.raises(LifelineError) as caught:
                client.get_sequence(USERS[0])
        assert (caught.value.reason, caught.value.metadata["owner"]) == ("OWNER_NOT_TRUSTED", address)
        assert len(pair.other.services.asked) == 1


def test_a_client_follows_with_its_token_only_where_its_own_ca_has_signed(
    authority: Authority, table: EmbeddingTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.ca))
    with ExitStack() as stack:
        pair = Pair(stack, table, server_of(authority), server_of(authority), redirect=True)

        def ask(**security: object) -> None:
            calls = CallSecurity.of(SecuritySettings.model_validate(security))
            with LifelineClient(pair.node.address, timeout_s=1 if "tls" in security else 30, security=calls) as client:
                client.get_sequence(USERS[0])

        with pytest.raises(LifelineError, match="NOT_OWNER"):
            ask(tls=True, token="read")
        assert pair.other.services.asked == []
        ask(ca=authority.ca, token="read")
        assert pair.other.services.tokens == ["Bearer read"]


async def test_a_standby_asks_an_owner_with_the_token_of_nodes_or_not_at_all(
    authority: Authority, other_authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = SecuritySettings.model_validate({"callers": CALLERS, "token": "all", "peer_token": "peer"})
    callers = {"nodes": {"token_sha256": token_hash("peer"), "methods": ["ListFingerprints"]}}
    with (
        serving(SecuritySettings.model_validate({"callers": callers})) as (server, _),
        # The service of the tests answers nothing: INTERNAL means that it was reached.
        pytest.raises(ConnectionError, match="INTERNAL"),
    ):
        await ask_owner(server.address, [0], settings)
    resolving(monkeypatch, "192.0.2.1")
    with pytest.raises(ConnectionError, match=r"security\.peer_token may not go to"):
        await ask_owner("127.attacker.example:1", [0], settings)
    monkeypatch.undo()
    monkeypatch.setenv("SSL_CERT_FILE", str(other_authority.ca))
    with serving(server_of(other_authority)) as (server, _), pytest.raises(ConnectionError, match="may not go to"):
        await ask_owner(server.address, [0], server_of(authority, peer_token="peer"))
