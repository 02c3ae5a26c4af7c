"""Tokens: where they go, what they are good for there, and how they are changed while everything runs."""

import asyncio
import os
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from pydantic import BaseModel, SecretStr
from structlog.testing import capture_logs
from typer.testing import CliRunner

from lifeline.cli import app
from lifeline.client import LifelineClient, LifelineError
from lifeline.config import LoadedSettings, Settings, load_settings
from lifeline.core.errors import ConfigError, SecurityError
from lifeline.core.security import CallSecurity, SecuritySettings, token_hash
from lifeline.node import security_watch
from lifeline.node.peer import ask_owner
from lifeline.node.security_watch import SecurityWatch
from lifeline.store.embeddings import EmbeddingTable
from tests.support.name_resolution import resolving
from tests.support.routed_nodes import COUNT, USERS, Node, owned_by
from tests.support.secure_servers import CALLERS, Authority, call, refusal, server_of, serving


@pytest.fixture
def ours(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ours")


@pytest.fixture
def theirs(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "theirs")


@pytest.fixture
def table(tmp_path: Path) -> Iterator[EmbeddingTable]:
    opened = EmbeddingTable.open(tmp_path / "items")
    yield opened
    opened.close()


# -- where a token goes ------------------------------------------------------------------------------------------------


def test_a_token_does_not_leave_the_machine_in_the_clear(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = CallSecurity.of(SecuritySettings(token=SecretStr("secret-token")))
    resolving(monkeypatch, "192.0.2.1")
    for address in ("127.attacker.example:50051", "192.0.2.1:50051", "localhost:50051"):
        with pytest.raises(SecurityError, match=r"would be sent to .* unencrypted: set security\.ca") as caught:
            LifelineClient(address, security=calls)
        assert "secret-token" not in str(caught.value)
        with pytest.raises(SecurityError, match="unencrypted"):
            asyncio.run(_aio_channel(calls, address))
    # Without a token it is the caller's own matter.
    LifelineClient("127.attacker.example:50051").close()


async def _aio_channel(calls: CallSecurity, address: str) -> None:
    await calls.aio_channel(address, ()).close(None)


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
    ours: Authority, theirs: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(server_of(ours, callers=CALLERS)) as (server, _):
        monkeypatch.setenv("SSL_CERT_FILE", str(ours.ca))
        call(server, tls=True, token="read")
        monkeypatch.setenv("SSL_CERT_FILE", str(theirs.ca))
        assert refusal(server, tls=True, token="read").reason == "SERVER_NOT_TRUSTED"


# -- what is forwarded -------------------------------------------------------------------------------------------------


class Pair:
    """A node that forwards or redirects, and what a member of its group advertises as the owner of everything."""

    def __init__(
        self,
        stack: ExitStack,
        table: EmbeddingTable,
        ours: SecuritySettings,
        theirs: SecuritySettings,
        *,
        redirect: bool = False,
    ) -> None:
        self.node = Node(stack, table, "redirect" if redirect else "forward", ours)
        self.other = Node(stack, table, "redirect", theirs)
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
    ours: Authority, theirs: Authority, table: EmbeddingTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever joins the group may advertise an address of its own, with a certificate that everybody trusts."""
    monkeypatch.setenv("SSL_CERT_FILE", str(theirs.ca))
    with ExitStack() as stack:
        signed = server_of(ours, callers=CALLERS, ca=ours.ca, token="all", peer_token="peer")
        pair = Pair(stack, table, signed, server_of(theirs))
        assert refusal(pair.node.server, user=USERS[0], ca=ours.ca, token="read").reason == "OWNER_UNREACHABLE"
        assert pair.other.services.asked == []
    with ExitStack() as stack:
        public = server_of(theirs, callers=CALLERS, tls=True, token="all", peer_token="peer")
        pair = Pair(stack, table, public, server_of(theirs))
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
    ours: Authority, table: EmbeddingTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(ours.ca))
    with ExitStack() as stack:
        pair = Pair(stack, table, server_of(ours), server_of(ours), redirect=True)

        def ask(**security: object) -> None:
            calls = CallSecurity.of(SecuritySettings.model_validate(security))
            with LifelineClient(pair.node.address, timeout_s=1 if "tls" in security else 30, security=calls) as client:
                client.get_sequence(USERS[0])

        with pytest.raises(LifelineError, match="NOT_OWNER"):
            ask(tls=True, token="read")
        assert pair.other.services.asked == []
        ask(ca=ours.ca, token="read")
        assert pair.other.services.tokens == ["Bearer read"]


def test_a_standby_asks_an_owner_with_the_token_of_nodes_or_not_at_all(
    ours: Authority, theirs: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = SecuritySettings.model_validate({"callers": CALLERS, "token": "all", "peer_token": "peer"})
    callers = {"nodes": {"token_sha256": token_hash("peer"), "methods": ["ListFingerprints"]}}
    with (
        serving(SecuritySettings.model_validate({"callers": callers})) as (server, _),
        # The service of the tests answers nothing: INTERNAL means that it was reached.
        pytest.raises(ConnectionError, match="INTERNAL"),
    ):
        asyncio.run(ask_owner(server.address, [0], settings))
    resolving(monkeypatch, "192.0.2.1")
    with pytest.raises(ConnectionError, match=r"security\.peer_token may not go to"):
        asyncio.run(ask_owner("127.attacker.example:1", [0], settings))
    monkeypatch.undo()
    monkeypatch.setenv("SSL_CERT_FILE", str(theirs.ca))
    with serving(server_of(theirs)) as (server, _), pytest.raises(ConnectionError, match="may not go to"):
        asyncio.run(ask_owner(server.address, [0], server_of(ours, peer_token="peer")))


# -- how tokens change -------------------------------------------------------------------------------------------------


def test_two_tokens_of_a_caller_are_one_caller() -> None:
    callers = {"feed": {"token_sha256": [token_hash("old"), token_hash("new").upper()], "max_concurrent": 1}}
    with serving(SecuritySettings.model_validate({"callers": callers})) as (server, sequences):
        call(server, token="old")
        call(server, token="new")
        sequences.entered.acquire(timeout=10)
        sequences.entered.acquire(timeout=10)
        sequences.go.clear()
        with grpc.insecure_channel(server.address) as channel:
            get = channel.unary_unary("/lifeline.v1.SequenceService/GetSequence", None, None)
            first: Any = get.future(b"", timeout=20, metadata=(("authorization", "Bearer old"),))
            assert sequences.entered.acquire(timeout=10)
            assert refusal(server, token="new").reason == "OVERLOADED"
            # Who calls is exchanged while a call is under way: it still counts, and ends as it began.
            callers["feed"]["token_sha256"] = token_hash("new")
            server.use_callers(SecuritySettings.model_validate({"callers": callers}).callers)
            assert refusal(server, token="new").reason == "OVERLOADED"
            assert refusal(server, token="old").reason == "TOKEN_UNKNOWN"
            sequences.go.set()
            first.result()
        call(server, token="new")


def write(path: Path, *tokens: str, name: str = "feed") -> None:
    hashes = ", ".join(f'"{token_hash(token)}"' for token in tokens)
    part = path.with_suffix(".part")
    part.write_text(f"[security.callers.{name}]\ntoken_sha256 = [{hashes}]\n")
    part.rename(path)


def watching(loaded: LoadedSettings, act: Callable[[SecurityWatch], Awaitable[None]]) -> None:
    """Follow the file while `act` runs."""

    async def run() -> None:
        watch = SecurityWatch(loaded)
        task = asyncio.create_task(watch.follow())
        try:
            await act(watch)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith("LIFELINE_"):
            monkeypatch.delenv(name)
    monkeypatch.setattr(security_watch, "_LOOK_S", 0.02)
    path = tmp_path / "lifeline.toml"
    write(path, "old")
    return path


def test_callers_are_read_again_when_the_file_has_changed(config: Path) -> None:
    loaded = load_settings(config)
    with serving(loaded.settings.security) as (server, _), capture_logs() as logs:

        async def rotate(watch: SecurityWatch) -> None:
            watch.use = lambda security: server.use_callers(security.callers)
            write(config, "old", "new")
            await until(lambda: len(watch.current.callers["feed"].token_sha256) == 2)
            for token in ("old", "new"):
                await asyncio.to_thread(call, server, token=token)
            write(config, "new")
            await until(lambda: len(watch.current.callers["feed"].token_sha256) == 1)
            await asyncio.to_thread(call, server, token="new")
            assert (await asyncio.to_thread(refusal, server, token="old")).reason == "TOKEN_UNKNOWN"

        watching(loaded, rotate)
    lines = [line for line in logs if line["event"] == "callers reloaded"]
    assert [(line["changed"], line["added"], line["removed"]) for line in lines] == [(["feed"], [], [])] * 2


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("[security.callers\n", "is not TOML"),
        ('[security.callers.feed]\ntoken_sha256 = "pasted-secret-token"\n', "is not one or two SHA-256 hashes"),
        ("[security]\n", "no callers any more"),
        ("[security]\nopen = true\n", "no callers any more"),
        ("[node]\nno_such = 1\n", "is not a setting"),
    ],
)
def test_a_file_that_cannot_be_used_changes_nothing(config: Path, content: str, why: str) -> None:
    async def spoil(watch: SecurityWatch) -> None:
        await asyncio.to_thread(config.write_text, content)
        await until(lambda: any(line["log_level"] == "error" for line in logs))
        assert watch.current.callers["feed"].token_sha256 == (token_hash("old"),)
        write(config, "new")
        await until(lambda: watch.current.callers["feed"].token_sha256 == (token_hash("new"),))

    with capture_logs() as logs:
        watching(load_settings(config), spoil)
    (line,) = [line for line in logs if line["log_level"] == "error"]
    assert why in line["why"]
    assert "pasted-secret-token" not in str(logs)


def test_a_signal_has_the_file_read_at_once(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(security_watch, "_LOOK_S", 3_600.0)

    async def ask(watch: SecurityWatch) -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, watch.ask)
        write(config, "new")
        os.kill(os.getpid(), signal.SIGHUP)
        await until(lambda: watch.current.callers["feed"].token_sha256 == (token_hash("new"),))
        asyncio.get_running_loop().remove_signal_handler(signal.SIGHUP)

    watching(load_settings(config), ask)


def test_the_token_of_a_client_is_read_again_when_its_file_has_changed(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("old\n")
    callers = {"feed": {"token_sha256": [token_hash("old")]}}
    with serving(SecuritySettings.model_validate({"callers": callers})) as (server, _):
        calls = CallSecurity.of(SecuritySettings(token_file=path))
        with LifelineClient(server.address, timeout_s=10, retry=False, security=calls) as client:
            client.get_sequence("ann")
            callers["feed"]["token_sha256"] = [token_hash("new-token")]
            server.use_callers(SecuritySettings.model_validate({"callers": callers}).callers)
            with pytest.raises(LifelineError, match="TOKEN_UNKNOWN"):
                client.get_sequence("ann")
            path.write_text("new-token\n")
            client.get_sequence("ann")
            # Half a rotation: the last one goes on.
            path.write_text("")
            client.get_sequence("ann")
            path.unlink()
            client.get_sequence("ann")


@pytest.mark.parametrize(
    ("content", "why"),
    [(None, "cannot be read"), ("", "exactly one token"), ("a b", "exactly one token"), ("é", "ASCII")],
)
def test_a_file_without_a_token_is_refused(tmp_path: Path, content: str | None, why: str) -> None:
    path = tmp_path / "token"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SecurityError, match=why):
        CallSecurity.of(SecuritySettings(token_file=path))


# -- what is shown -----------------------------------------------------------------------------------------------------

PASTED = "pasted-secret-Abc123"


@pytest.mark.parametrize(
    "content",
    [
        f'[security.callers.feed]\ntoken_sha256 = "{PASTED}"\n',
        f'[security.callers.feed]\ntoken_sha256 = ["{"0" * 64}", "{PASTED}"]\n',
        f'[security.callers.feed]\ntoken_sha256 = {{ a = "{PASTED}" }}\n',
        f'[security.callers.feed]\ntoken = "{PASTED}"\n',
        f'[security.callers]\nfeed = "{PASTED}"\n',
        f'[security]\ncallers = "{PASTED}"\n',
        f'[security]\ncallers = ["{PASTED}"]\n',
        f'[security]\ntoken = ["{PASTED}"]\n',
        f'[security]\npeer_token = {{ a = "{PASTED}" }}\n',
        f'[security]\ntoken = "{PASTED}"\ntoken_file = "x"\n',
        f'[security]\ntokn = "{PASTED}"\n',
        f'security = "{PASTED}"\n',
        f'kafka = "{PASTED}"\n',
        f'[kafka]\nsasl_password = ["{PASTED}"]\n',
        f'[kafka]\nssl_key_password = ["{PASTED}"]\n',
        f'[kafka]\nsecurity_protocol = "SASL_SSL"\nsasl_password = "{PASTED}"\n',
        f'[snapshot]\nstorage_options = "{PASTED}"\n',
        f'[snapshot]\nurl = ["https://host/path?sig={PASTED}"]\n',
        f'[snapshot]\nurl = "ftp://me:{PASTED}@host/path"\n',
        f'[snapshot]\nstorage_options = {{ secret = "{PASTED}" }}\nkeep = 0\n',
    ],
)
def test_no_message_about_the_configuration_shows_a_secret(config: Path, content: str) -> None:
    config.write_text(content)
    with pytest.raises(ConfigError) as caught:
        load_settings(config)
    assert PASTED not in str(caught.value)
    assert PASTED not in repr(caught.value.__cause__)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LIFELINE_SECURITY", PASTED),
        ("LIFELINE_SECURITY__CALLERS", PASTED),
        ("LIFELINE_SECURITY__CALLERS__FEED", PASTED),
        ("LIFELINE_SECURITY__CALLERS__FEED__TOKEN_SHA256", PASTED),
        ("LIFELINE_SECURITY__CALLERS__FEED", f'{{"token_sha256": "{PASTED}"}}'),
        ("LIFELINE_SECURITY__CALLERS__FEED__METHODS", PASTED),
        ("LIFELINE_KAFKA__SASL_PASSWORD__X", PASTED),
    ],
)
def test_no_message_about_a_variable_shows_a_secret(
    config: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    config.unlink()
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as caught:
        load_settings()
    assert PASTED not in str(caught.value)


@pytest.mark.parametrize("tokens", [("old",), ("old", "new")])
def test_hashes_may_come_from_a_variable(
    config: Path, monkeypatch: pytest.MonkeyPatch, tokens: tuple[str, ...]
) -> None:
    config.unlink()
    hashes = tuple(map(token_hash, tokens))
    monkeypatch.setenv("LIFELINE_SECURITY__CALLERS__FEED__TOKEN_SHA256", ", ".join(hashes))
    assert load_settings().settings.security.callers["feed"].token_sha256 == hashes


def test_what_is_shown_of_the_configuration_has_no_secret(config: Path) -> None:
    config.write_text(
        f'[security]\ntoken = "{PASTED}"\npeer_token = "{PASTED}"\n[kafka]\nsasl_password = "{PASTED}"\n'
        f'ssl_key_password = "{PASTED}"\n[snapshot]\nurl = "abfs://c/p?sv=1&sig={PASTED}"\n'
        f'storage_options = {{ sas_token = "{PASTED}", kw = {{ a = "{PASTED}" }} }}\n'
    )
    for more in ([], ["--json"], ["--origin"]):
        done = CliRunner().invoke(app, ["config", "show", "--config", str(config), *more], env={"COLUMNS": "300"})
        assert done.exit_code == 0
        assert PASTED not in done.stdout
        assert "sig=***" in done.stdout
    assert PASTED not in repr(load_settings(config).settings).replace(f"sig={PASTED}", "")


def models(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    yield model
    for field in model.model_fields.values():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from models(field.annotation)


def test_validation_hides_the_input_of_whatever_has_secrets() -> None:
    found: list[type[BaseModel]] = [model for model in models(Settings) if "SecretStr" in str(model.model_fields)]
    assert {model.__name__ for model in found} >= {"KafkaSettings", "SnapshotSettings", "SecuritySettings"}
    holders: list[type[BaseModel]] = [*found, Settings]
    for model in holders:
        assert model.model_config.get("hide_input_in_errors"), model
