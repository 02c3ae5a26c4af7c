"""Who may call what: open ports, operators' methods, and the line that each of their calls leaves in the log."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_reflection.v1alpha import reflection_pb2
from structlog.testing import capture_logs

from lifeline.client import LifelineClient, LifelineError
from lifeline.config import load_settings
from lifeline.core.errors import SecurityError
from lifeline.core.loopback import is_loopback_peer, loopback_addresses, loopback_target
from lifeline.core.methods import AUDIENCES, DESCRIPTORS, Audience, audience_of
from lifeline.core.security import CallSecurity, SecuritySettings, token_hash
from lifeline.node.process import run_node
from lifeline.rpc import authorization
from lifeline.rpc.server import SERVICES, NodeServer
from lifeline.v1 import model_pb2, operator_pb2, score_pb2, sequence_pb2
from tests.support.name_resolution import resolving
from tests.support.secure_servers import Authority, server_of, serving

CALLS: Mapping[str, Callable[[LifelineClient], object]] = {
    "GetSequence": lambda client: client.get_sequence("ann"),
    "Score": lambda client: client.score("ann", [1]),
    "ListFingerprints": lambda client: client.list_fingerprints(0),
    "ListPartitions": lambda client: client.list_partitions(),
    "CreateSnapshot": lambda client: client.create_snapshot(timeout_s=10),
    "GetModel": lambda client: client.get_model(),
    "UseModel": lambda client: client.use_model(),
}
OPERATORS = {name for name, audience in AUDIENCES.items() if audience is Audience.OPERATORS}


def outcome(server: NodeServer, method: str, **security: object) -> str:
    """Return why a call did not reach its service; "reached" of one that did."""
    calls = CallSecurity.of(SecuritySettings.model_validate(security))
    with LifelineClient(server.address, timeout_s=10, retry=False, security=calls) as client:
        try:
            CALLS[method](client)
        except LifelineError as error:
            # The services of the tests answer nothing but sequences.
            return "reached" if error.reason == "INTERNAL" else error.reason
    return "reached"


@contextmanager
def called_from(peer: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have the node see another peer than the one that calls."""
    with monkeypatch.context() as patch:
        patch.setattr(authorization, "is_loopback_peer", lambda _: is_loopback_peer(peer))
        yield


def test_every_method_of_every_service_is_classified() -> None:
    modules = (model_pb2, operator_pb2, score_pb2, sequence_pb2)
    services = [service for module in modules for service in module.DESCRIPTOR.services_by_name.values()]
    assert {service.full_name for service in services} == {each.full_name for each in DESCRIPTORS} == set(SERVICES)
    names = [method.name for service in services for method in service.methods]
    assert len(names) == len(set(names))
    (stream,) = reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"].methods
    assert set(AUDIENCES) == {*names, stream.name}
    assert set(CALLS) == set(names)
    assert audience_of("/lifeline.v1.OperatorService/Added") is Audience.OPERATORS


@pytest.mark.parametrize("methods", [None, ["*"]])
def test_a_caller_has_operators_methods_only_by_name(methods: list[str] | None) -> None:
    caller = {"token_sha256": token_hash("t"), **({} if methods is None else {"methods": methods})}
    with serving(SecuritySettings.model_validate({"callers": {"feed": caller}})) as (server, _):
        reached = {method for method in CALLS if outcome(server, method, token="t") == "reached"}
        assert reached == {"GetSequence", "Score"}
        assert outcome(server, "UseModel", token="t") == "METHOD_NOT_ALLOWED"
    named = caller | {"methods": ["*", "UseModel"]}
    with serving(SecuritySettings.model_validate({"callers": {"feed": named}})) as (server, _):
        reached = {method for method in CALLS if outcome(server, method, token="t") == "reached"}
        assert reached == {"GetSequence", "Score", "UseModel"}


def test_without_callers_operators_call_from_the_nodes_own_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(SecuritySettings(open=True)) as (server, _):
        assert {outcome(server, method) for method in CALLS} == {"reached"}
        for peer in ("ipv4:10.0.0.7:40000", "ipv6:%5B2001:db8::1%5D:40000", "ipv4:", ""):
            with called_from(peer, monkeypatch):
                refused = {method for method in CALLS if outcome(server, method) == "METHOD_NOT_ALLOWED"}
                assert refused == OPERATORS


def test_a_port_that_others_reach_needs_callers_or_has_to_be_opened(authority: Authority) -> None:
    caller = {"feed": {"token_sha256": token_hash("t")}}
    tls = server_of(authority)
    for address in ("0.0.0.0:50051", "[::]:50051", "[::ffff:0.0.0.0]:50051", "10.0.0.7:50051", "127.a.example:50051"):
        for settings in (SecuritySettings(), tls):
            with pytest.raises(SecurityError, match=r"does not say who may call: set .*security\.open = true"):
                settings.listening_addresses(address)
        with pytest.raises(SecurityError, match=r"unencrypted: set security\.certificate"):
            SecuritySettings.model_validate({"callers": caller}).listening_addresses(address)
        for more in ({"callers": caller}, {"client_ca": authority.ca}, {"open": True}):
            settings = SecuritySettings.model_validate(tls.model_dump() | more)
            assert settings.listening_addresses(address) == (address,)
    assert SecuritySettings().listening_addresses("127.0.0.1:50051") == ("127.0.0.1:50051",)


async def test_a_node_that_would_be_open_does_not_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    flags = {"node.grpc_address": "0.0.0.0:0", "kafka.bootstrap_servers": "127.0.0.1:1"}
    with pytest.raises(SecurityError, match=r"other machines can reach 0\.0\.0\.0:0"):
        await run_node(load_settings(None, flags))
    assert list(tmp_path.iterdir()) == []


def test_loopback_is_judged_by_what_a_name_resolves_to(monkeypatch: pytest.MonkeyPatch) -> None:
    assert loopback_target("127.0.0.1:7") == "ipv4:127.0.0.1:7"
    assert loopback_target("[::1]:7") == "ipv6:[::1]:7"
    assert loopback_target("unix:/run/lifeline") == "unix:/run/lifeline"
    for odd in (
        "127.0.0.1",
        "127.0.0.1:x",
        "0.0.0.0:7",
        "[::]:7",
        "\udcff:7",
        "a" * 300 + ":7",
        "127.0.0.1:7,10.0.0.1:7",
    ):
        assert loopback_target(odd) is None
    resolving(monkeypatch, "192.0.2.1")
    for name in ("127.attacker.example:7", "localhost:7", "127.0.0.1.attacker.example:7"):
        assert loopback_target(name) is None
    # One address of several is enough to leave the machine.
    resolving(monkeypatch, "127.0.0.1", "192.0.2.1")
    assert loopback_addresses("localhost:7") == ()
    # What was resolved is what is connected to: nobody asks again.
    lookups = resolving(monkeypatch, "127.0.0.1", "::1")
    assert loopback_target("mine.example:7") == "ipv6:[::ffff:127.0.0.1]:7,[::1]:7"
    assert lookups == ["mine.example"]


@pytest.mark.parametrize(
    ("peer", "local"),
    [
        ("ipv4:127.0.0.1:1", True),
        ("ipv6:%5B::1%5D:1", True),
        ("ipv6:%5B::ffff:127.0.0.1%5D:1", True),
        ("unix:", True),
        ("ipv4:10.0.0.1:1", False),
        ("ipv6:%5B::ffff:10.0.0.1%5D:1", False),
        ("ipv4:127.0.0.1.example:1", False),
        ("dns:127.0.0.1:1", False),
        ("", False),
    ],
)
def test_which_peers_are_on_this_machine(peer: str, local: bool) -> None:
    assert is_loopback_peer(peer) is local


def test_a_name_is_listened_at_where_it_resolves_to(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(SecuritySettings(), "localhost:0") as (server, _):
        assert server.address.startswith("localhost:")
        assert outcome(server, "GetSequence") == "reached"
    resolving(monkeypatch, "192.0.2.1")
    with pytest.raises(SecurityError, match="other machines can reach"), serving(SecuritySettings(), "localhost:0"):
        pass


CALLERS = {
    "ops": {"token_sha256": token_hash("ops"), "methods": ["UseModel", "GetModel"]},
    "feed": {"token_sha256": token_hash("feed")},
}


def lines(logs: list[Any]) -> list[tuple[str, str | None, str]]:
    found = [line for line in logs if line["event"] == "operator call"]
    assert all(line["peer"].startswith("ipv4:127.0.0.1:") and line["log_level"] == "info" for line in found)
    return [(line["method"], line["caller"], line["outcome"]) for line in found]


def test_each_call_of_an_operator_is_logged_with_its_caller() -> None:
    with serving(SecuritySettings.model_validate({"callers": CALLERS})) as (server, _), capture_logs() as logs:
        outcome(server, "UseModel", token="ops")
        outcome(server, "GetModel", token="ops")
        outcome(server, "GetSequence", token="feed")
        outcome(server, "UseModel", token="feed")
        assert lines(logs) == [
            ("UseModel", "ops", "INTERNAL"),
            ("GetModel", "ops", "INTERNAL"),
            ("UseModel", "feed", "PERMISSION_DENIED"),
        ]
        assert "ops" not in str([{**line, "caller": ""} for line in logs if line["event"] == "operator call"])
    with serving(SecuritySettings()) as (server, _), capture_logs() as logs:
        outcome(server, "ListPartitions")
        assert lines(logs) == [("ListPartitions", None, "INTERNAL")]


def test_refused_calls_of_operators_methods_do_not_fill_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(authorization, "_REFUSAL_LOG_INTERVAL_S", 1e9)
    with serving(SecuritySettings.model_validate({"callers": CALLERS})) as (server, _), capture_logs() as logs:
        for _ in range(10):
            assert outcome(server, "UseModel", token="guess") == "TOKEN_UNKNOWN"
        assert lines(logs) == [("UseModel", None, "UNAUTHENTICATED")]
        # An interval later there is a line again, which counts those that had none.
        monkeypatch.setattr(authorization, "_REFUSAL_LOG_INTERVAL_S", 0.0)
        outcome(server, "UseModel", token="guess")
        assert [line["unlogged"] for line in logs if "unlogged" in line] == [9]


def test_a_node_is_known_by_the_name_in_its_certificate(authority: Authority) -> None:
    node = dict(zip(("client_certificate", "client_key"), authority.issue("lifeline-node"), strict=True))
    other = dict(zip(("client_certificate", "client_key"), authority.issue("feed"), strict=True))
    security = server_of(authority, client_ca=authority.ca, callers=CALLERS, ca=authority.ca, peer_name="lifeline-node")
    with serving(security) as (server, _):
        reached = {method for method in CALLS if outcome(server, method, ca=authority.ca, **node) == "reached"}
        # What nodes ask each other, and nothing else: users and operators have tokens.
        assert reached == {"ListFingerprints"}
        assert outcome(server, "ListFingerprints", ca=authority.ca, **other) == "TOKEN_MISSING"


def test_nodes_call_only_nodes_where_these_have_a_name_of_their_own(authority: Authority) -> None:
    calls = CallSecurity.between_nodes(SecuritySettings(ca=authority.ca, peer_name="lifeline-node"))
    for name, reason in (("lifeline-node", ""), ("127.0.0.1", "SERVER_NAME_WRONG")):
        with (
            serving(server_of(authority, name)) as (server, _),
            LifelineClient(server.address, timeout_s=10, retry=False, security=calls) as client,
        ):
            if not reason:
                client.get_sequence("ann")
                continue
            with pytest.raises(LifelineError) as caught:
                client.get_sequence("ann")
            assert (caught.value.reason, caught.value.code) == (reason, grpc.StatusCode.UNAVAILABLE)
