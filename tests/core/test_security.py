"""The security of the port: TLS, certificates of callers, tokens, and what each refusal is called."""

import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from threading import Event
from typing import Any, cast

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from pydantic import ValidationError
from typer.testing import CliRunner

from lifeline.cli import app
from lifeline.core.errors import SecurityError
from lifeline.core.security import AUTHORIZATION, CallSecurity, SecuritySettings, token_hash
from lifeline.store.embeddings import EmbeddingTable
from tests.support.refusals import info_of
from tests.support.routed_nodes import COUNT, USERS, Node, owned_by
from tests.support.secure_servers import CALLERS, Authority, call, refusal, server_of, serving


def test_a_call_over_tls(authority: Authority) -> None:
    with serving(server_of(authority)) as (server, _):
        call(server, ca=authority.ca)


def test_a_node_that_nobody_trusted_signed_for_is_not_called(authority: Authority, other_authority: Authority) -> None:
    with serving(server_of(other_authority)) as (server, _):
        error = refusal(server, ca=authority.ca)
        assert error.reason == "SERVER_NOT_TRUSTED"
        assert "set security.ca to the CA of the nodes" in error.message
        assert not error.may_pass


def test_a_node_of_another_name_is_not_called(authority: Authority) -> None:
    with serving(server_of(authority, "elsewhere.example")) as (server, _):
        error = refusal(server, ca=authority.ca)
        assert error.reason == "SERVER_NAME_WRONG"
        assert "call the node by a name that is in its certificate" in error.message


def test_whether_a_node_speaks_tls_is_told(authority: Authority) -> None:
    with serving(SecuritySettings()) as (server, _):
        assert refusal(server, ca=authority.ca).reason == "SERVER_WITHOUT_TLS"
    with serving(server_of(authority)) as (server, _):
        assert "it may speak TLS: set security.ca" in refusal(server).message


def test_callers_have_to_show_a_certificate(authority: Authority, other_authority: Authority) -> None:
    with serving(server_of(authority, client_ca=authority.ca)) as (server, _):
        assert "set security.client_certificate" in refusal(server, ca=authority.ca).message
        stranger, key = other_authority.issue("caller")
        assert (
            "set security.client_certificate"
            in refusal(server, ca=authority.ca, client_certificate=stranger, client_key=key).message
        )
        known, key = authority.issue("caller")
        call(server, ca=authority.ca, client_certificate=known, client_key=key)


def test_certificates_are_read_again_when_they_have_changed(authority: Authority, other_authority: Authority) -> None:
    settings = server_of(authority)
    assert settings.certificate is not None
    assert settings.private_key is not None
    with serving(settings) as (server, _):
        call(server, ca=authority.ca)
        certificate, key = other_authority.issue("127.0.0.1")
        # Half of it: the old one goes on.
        settings.certificate.write_text("nothing yet")
        call(server, ca=authority.ca)
        settings.private_key.write_bytes(key.read_bytes())
        settings.certificate.write_bytes(certificate.read_bytes())
        call(server, ca=other_authority.ca)
        assert refusal(server, ca=authority.ca).reason == "SERVER_NOT_TRUSTED"


@pytest.mark.parametrize(
    ("token", "code", "reason"),
    [
        (None, grpc.StatusCode.UNAUTHENTICATED, "TOKEN_MISSING"),
        ("guess", grpc.StatusCode.UNAUTHENTICATED, "TOKEN_UNKNOWN"),
        ("", grpc.StatusCode.UNAUTHENTICATED, "TOKEN_MISSING"),
        ("rank", grpc.StatusCode.PERMISSION_DENIED, "METHOD_NOT_ALLOWED"),
    ],
)
def test_who_may_not_call_is_told_why(token: str | None, code: grpc.StatusCode, reason: str) -> None:
    with serving(SecuritySettings.model_validate({"callers": CALLERS})) as (server, _):
        error = refusal(server, token=token)
        assert (error.code, error.reason) == (code, reason)
        assert not error.may_pass


def test_known_callers_call_what_they_may(authority: Authority) -> None:
    with serving(server_of(authority, callers=CALLERS)) as (server, _):
        for token in ("read", "all"):
            call(server, ca=authority.ca, token=token)
        # A token that was sent as something else is none.
        with grpc.secure_channel(server.address, grpc.ssl_channel_credentials(authority.ca.read_bytes())) as channel:
            with pytest.raises(grpc.RpcError) as caught:
                channel.unary_unary("/lifeline.v1.SequenceService/GetSequence", None, None)(
                    b"", timeout=10, metadata=((AUTHORIZATION, "Basic all"),)
                )
            assert "token belongs to no caller" in str(caught.value)


def test_a_caller_has_no_more_calls_at_once_than_it_may() -> None:
    with serving(SecuritySettings.model_validate({"callers": CALLERS})) as (server, sequences):
        sequences.go.clear()
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(call, server, token="read")
            assert sequences.entered.acquire(timeout=10)
            error = refusal(server, token="read")
            assert (error.code, error.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
            assert error.metadata == {"limit": "1", "caller": "reader"}
            sequences.go.set()
            first.result()
        # Whoever waited has room now.
        call(server, token="read")


def test_a_caller_sends_no_larger_request_than_it_may() -> None:
    callers = {"reader": {"token_sha256": token_hash("read"), "max_message_kib": 1}, "operator": CALLERS["operator"]}
    with (
        serving(SecuritySettings.model_validate({"callers": callers})) as (server, sequences),
        grpc.insecure_channel(server.address) as channel,
    ):
        get = channel.unary_unary("/lifeline.v1.SequenceService/GetSequence", None, None)

        def send(raw: bytes, token: str = "read") -> bytes:
            metadata = ((AUTHORIZATION, f"Bearer {token}"),)
            return cast("bytes", get(raw, timeout=10, metadata=metadata))

        # A field that the node does not know: its number, its length, and 1,020 bytes.
        padded = b"\xfa\x7d" + b"\xfc\x07" + b"x" * 1_020
        assert len(padded) == 1_024
        send(padded)
        # One too many are not even decoded: they mean nothing.
        sequences.entered.acquire(timeout=10)
        with pytest.raises(grpc.RpcError) as caught:
            send(b"\xff" * 1_025)
        error = info_of(caught.value)
        assert error.reason == "REQUEST_TOO_LARGE"
        assert dict(error.metadata) == {"bytes": "1025", "limit": "1024", "caller": "reader"}
        assert not sequences.entered.acquire(blocking=False)
        send(padded * 2, "all")


def test_a_caller_has_no_more_streams_at_once_than_it_may() -> None:
    callers = {"operator": {"token_sha256": token_hash("all"), "max_streams": 1, "max_message_kib": 1}}

    def ask(channel: grpc.Channel, more: Iterator[reflection_pb2.ServerReflectionRequest]) -> Any:
        metadata = ((AUTHORIZATION, "Bearer all"),)
        return reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(
            more, timeout=20, metadata=metadata
        )

    request = reflection_pb2.ServerReflectionRequest(list_services="")
    with (
        serving(SecuritySettings.model_validate({"callers": callers})) as (server, _),
        grpc.insecure_channel(server.address) as channel,
    ):
        done = Event()

        def asking() -> Iterator[reflection_pb2.ServerReflectionRequest]:
            yield request
            done.wait(20)

        first = ask(channel, asking())
        next(first)
        with pytest.raises(grpc.RpcError) as caught:
            next(ask(channel, iter([request])))
        error = info_of(caught.value)
        assert (error.reason, dict(error.metadata)) == ("OVERLOADED", {"limit": "1", "caller": "operator"})
        # Calls are another matter.
        call(server, token="all")
        done.set()
        assert list(first) == []
        too_large = reflection_pb2.ServerReflectionRequest(file_by_filename="x" * 1_025)
        with pytest.raises(grpc.RpcError) as caught:
            next(ask(channel, iter([too_large])))
        assert info_of(caught.value).reason == "REQUEST_TOO_LARGE"


def test_health_is_open_and_reflection_is_not() -> None:
    def ask(channel: grpc.Channel, metadata: tuple[tuple[str, str], ...] = ()) -> Any:
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        return next(reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(
            iter([request]), timeout=10, metadata=metadata
        ))  # fmt: skip

    with (
        serving(SecuritySettings.model_validate({"callers": CALLERS})) as (server, _),
        grpc.insecure_channel(server.address) as channel,
    ):
        reply = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service="liveness"), timeout=10)
        assert reply.status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.RpcError) as caught:
            ask(channel)
        assert "UNAUTHENTICATED" in str(caught.value)
        services = ask(channel, ((AUTHORIZATION, "Bearer all"),)).list_services_response.service
        assert "lifeline.v1.ScoreService" in {service.name for service in services}


def test_nodes_forward_over_tls_with_the_callers_token(
    authority: Authority, other_authority: Authority, tmp_path: Path
) -> None:
    known, key = authority.issue("node")
    trusted = tmp_path / "trusted.pem"
    trusted.write_bytes(authority.ca.read_bytes())
    security = server_of(
        authority,
        client_ca=authority.ca,
        callers=CALLERS,
        ca=trusted,
        client_certificate=known,
        client_key=key,
        token="all",
        peer_token="peer",
    )
    with ExitStack() as stack:
        table = EmbeddingTable.open(tmp_path / "items")
        stack.callback(table.close)
        first, second = (Node(stack, table, "forward", security) for _ in range(2))
        for node in (first, second):
            node.owners.update(owned_by(*[second.address] * COUNT))
        for number in range(COUNT):
            second.directory.announce(number)
        reader = {"ca": authority.ca, "client_certificate": known, "client_key": key, "token": "read"}
        call(first.server, user=USERS[0], **reader)
        assert [marked for _, marked, _ in second.services.asked] == [True]
        assert second.services.tokens == ["Bearer read"]
        # What a node trusts may change while it runs.
        trusted.write_bytes(other_authority.ca.read_bytes())
        error = refusal(first.server, user=USERS[0], **reader)
        assert error.reason == "OWNER_UNREACHABLE"
        assert "CERTIFICATE_VERIFY_FAILED" in error.message
        trusted.write_bytes(other_authority.ca.read_bytes() + authority.ca.read_bytes())
        call(first.server, user=USERS[0], **reader)


@pytest.mark.parametrize(
    ("settings", "advice"),
    [
        ({"certificate": "a.pem"}, "belong together"),
        ({"client_ca": "a.pem"}, "needs security.certificate"),
        ({"client_certificate": "a", "client_key": "b"}, "needs security.ca"),
        (
            {"callers": {"a": {"token_sha256": "0" * 64}, "b": {"token_sha256": "0" * 64}}},
            "the same token: give each caller its own",
        ),
        ({"callers": {"a": {"token_sha256": "secret"}}}, "is not one or two SHA-256 hashes"),
        ({"callers": {"a": {"token_sha256": ["0" * 64, "1" * 64, "2" * 64]}}}, "one or two SHA-256 hashes"),
        ({"callers": {"a": {"token_sha256": "0" * 64, "methods": ["GetSequences"]}}}, "entry 1 is not a method"),
        ({"open": True, "callers": {"a": {"token_sha256": "0" * 64}}}, "leave one out"),
        ({"open": True, "certificate": "a", "private_key": "b", "client_ca": "c"}, "leave one out"),
        ({"token": "a", "token_file": "b"}, "are both set"),
        ({"peer_name": "node"}, "needs security.ca"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(settings: Mapping[str, object], advice: str) -> None:
    with pytest.raises(ValidationError, match=advice):
        SecuritySettings.model_validate(settings)


def test_a_file_that_is_not_there_or_no_pem_is_named(tmp_path: Path) -> None:
    for settings in (
        SecuritySettings(ca=tmp_path / "none.pem"),
        SecuritySettings(ca=tmp_path / "odd.pem"),
    ):
        (tmp_path / "odd.pem").write_text("certificate")
        with pytest.raises(SecurityError, match=r"(none|odd).pem (cannot be read|is not PEM)"):
            CallSecurity.of(settings)


def test_the_command_makes_a_token_and_its_hash() -> None:
    runner = CliRunner()
    answer = json.loads(runner.invoke(app, ["token", "--json"]).stdout)
    assert token_hash(answer["token"]) == answer["token_sha256"]
    assert len(answer["token"]) >= 40
    assert json.loads(runner.invoke(app, ["token", "--json"]).stdout) != answer
    assert "token_sha256" in runner.invoke(app, ["token"]).stdout
