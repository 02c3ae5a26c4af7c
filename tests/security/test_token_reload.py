"""Tokens that change while everything runs: of callers, and of a client."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from structlog.testing import capture_logs

from lifeline.client import LifelineClient, LifelineError
from lifeline.config import LoadedSettings, load_settings
from lifeline.core.errors import SecurityError
from lifeline.core.security import CallSecurity, SecuritySettings, token_hash
from lifeline.node import security_watch
from lifeline.node.security_watch import SecurityWatch
from tests.support.callers_file import write_callers
from tests.support.secure_servers import call, refusal, serving
from tests.support.stream_harness import until


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


@asynccontextmanager
async def watching(loaded: LoadedSettings) -> AsyncIterator[SecurityWatch]:
    """Follow the file."""
    watch = SecurityWatch(loaded)
    task = asyncio.create_task(watch.follow())
    try:
        yield watch
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture(autouse=True)
def look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(security_watch, "_LOOK_S", 0.02)


async def test_callers_are_read_again_when_the_file_has_changed(config_file: Path) -> None:
    loaded = load_settings(config_file)
    with serving(loaded.settings.security) as (server, _), capture_logs() as logs:
        async with watching(loaded) as watch:
            watch.use = lambda security: server.use_callers(security.callers)
            write_callers(config_file, "old", "new")
            await until(lambda: len(watch.current.callers["feed"].token_sha256) == 2)
            for token in ("old", "new"):
                await asyncio.to_thread(call, server, token=token)
            write_callers(config_file, "new")
            await until(lambda: len(watch.current.callers["feed"].token_sha256) == 1)
            await asyncio.to_thread(call, server, token="new")
            assert (await asyncio.to_thread(refusal, server, token="old")).reason == "TOKEN_UNKNOWN"
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
async def test_a_file_that_cannot_be_used_changes_nothing(config_file: Path, content: str, why: str) -> None:
    with capture_logs() as logs:
        async with watching(load_settings(config_file)) as watch:
            config_file.write_text(content)
            await until(lambda: any(line["log_level"] == "error" for line in logs))
            assert watch.current.callers["feed"].token_sha256 == (token_hash("old"),)
            write_callers(config_file, "new")
            await until(lambda: watch.current.callers["feed"].token_sha256 == (token_hash("new"),))
    (line,) = [line for line in logs if line["log_level"] == "error"]
    assert why in line["why"]
    assert "pasted-secret-token" not in str(logs)


async def test_a_signal_has_the_file_read_at_once(config_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(security_watch, "_LOOK_S", 3_600.0)

    loop = asyncio.get_running_loop()
    async with watching(load_settings(config_file)) as watch:
        loop.add_signal_handler(signal.SIGHUP, watch.ask)
        write_callers(config_file, "new")
        os.kill(os.getpid(), signal.SIGHUP)
        await until(lambda: watch.current.callers["feed"].token_sha256 == (token_hash("new"),))
        loop.remove_signal_handler(signal.SIGHUP)


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
    [
        (None, "cannot be read"),
        (b"", "holds no token"),
        (b" \r\n", "holds no token"),
        (b"a b", "character 2 of its token is white space"),
        (b"key\x1b[0m", "character 4 of its token is a control character"),
        (b"key\0", "character 4 of its token is a control character"),
        ("\ufeffkey".encode(), "character 1 of its token is not ASCII"),
        ("key".encode("utf-16"), "is not text"),
        (b"k" * 5_000, "5,000 characters"),
    ],
)
def test_a_file_without_a_token_is_refused(tmp_path: Path, content: bytes | None, why: str) -> None:
    path = tmp_path / "token"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SecurityError, match=why) as caught:
        CallSecurity.of(SecuritySettings(token_file=path))
    assert "key" not in str(caught.value)
