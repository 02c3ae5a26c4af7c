import errno
import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaAdminClient

from lifeline import broker as module
from lifeline.broker import (
    Broker,
    BrokerError,
    FetchProgress,
    broker_or_given,
    cache_dir,
    fetch_kafka,
    free_port,
)

pytestmark = pytest.mark.kafka


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


def gone(pid: int, within_s: float = 20.0) -> bool:
    deadline = time.monotonic() + within_s
    while alive(pid):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def topics(bootstrap_servers: str) -> list[str]:
    admin = KafkaAdminClient(bootstrap_servers=bootstrap_servers)
    try:
        found: list[str] = admin.list_topics()
        return found
    finally:
        admin.close()


def test_a_broker_keeps_its_data_through_a_stop_and_a_kill(tmp_path: Path) -> None:
    with Broker.start(tmp_path) as broker:
        admin = KafkaAdminClient(bootstrap_servers=broker.bootstrap_servers)
        admin.create_topics({"kept": {"num_partitions": 2, "replication_factor": 1}})
        admin.close()
        pid = broker.pid
    assert not broker.running
    assert gone(pid)
    with Broker.start(tmp_path, port=broker.port) as broker:
        assert topics(broker.bootstrap_servers) == ["kept"]
        broker.kill()
        assert gone(broker.pid)
        broker.kill()
    with Broker.start(tmp_path) as broker:
        assert topics(broker.bootstrap_servers) == ["kept"]


def test_the_broker_goes_when_its_parent_is_killed_and_needs_nothing_on_the_path(tmp_path: Path) -> None:
    code = (
        "import pathlib, sys, time; from lifeline.broker import Broker\n"
        "b = Broker.start(pathlib.Path(sys.argv[1])); print(b.pid, flush=True); time.sleep(600)"
    )
    environment = {"PATH": "/nonexistent", "HOME": os.environ.get("HOME", "/root")}
    environment |= {name: os.environ[name] for name in ("XDG_CACHE_HOME",) if name in os.environ}
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdout=subprocess.PIPE,
        env=environment,
        cwd=Path(__file__).parents[2],
    ) as parent:
        assert parent.stdout is not None
        pid = next(int(word) for line in parent.stdout for word in line.split() if word.isdigit())
        assert alive(pid)
        parent.send_signal(signal.SIGKILL)
    assert gone(pid)


def test_a_temporary_directory_goes_with_its_broker() -> None:
    with suppress(ZeroDivisionError), Broker.start() as broker:
        pid, home = broker.pid, broker.data_dir
        raise ZeroDivisionError
    assert gone(pid)
    assert not home.exists()


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(BrokerError, match=rf"port {port} on 127\.0\.0\.1 is taken.*give another port"):
            Broker.start(tmp_path, port=port)


def test_a_broker_that_cannot_run_shows_its_last_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_JVM", ("-XX:NoSuchOption",))
    with pytest.raises(BrokerError, match=r"(?s)NoSuchOption.*give another directory"):
        Broker.start(tmp_path)


def test_a_directory_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BrokerError, match=r"cannot use .*give another directory"):
        Broker.start(tmp_path / "file")


def test_no_free_port(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.EADDRINUSE, "Address already in use")

    monkeypatch.setattr(socket.socket, "bind", refuse)
    with pytest.raises(BrokerError, match=r"no free port .*--bootstrap-servers"):
        free_port()


def test_a_complete_cache_is_used_without_the_network(monkeypatch: pytest.MonkeyPatch, bootstrap_servers: str) -> None:
    assert bootstrap_servers
    monkeypatch.setattr(module, "_download", lambda *_: pytest.fail("the network was asked"))
    steps: list[FetchProgress] = []
    jars = fetch_kafka(steps.append)
    assert any(jar.name.endswith("kafka_2.13-4.3.1.jar") for jar in jars)
    assert steps == []


@pytest.mark.parametrize("damage", ["cut short", "missing"])
def test_a_cache_with_a_damaged_jar_is_fetched_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    home = tmp_path / f"kafka-{module.KAFKA_VERSION}"
    home.mkdir()
    (home / "listing.json").write_text(json.dumps({"a.jar": 3}))
    if damage == "cut short":
        (home / "a.jar").write_bytes(b"ab")

    def download(into: Path, progress: module.Progress) -> None:
        (into / "a.jar").write_bytes(b"abc")
        (into / "listing.json").write_text(json.dumps({"a.jar": 3}))
        progress(FetchProgress(1, 1, 3, "a.jar"))

    monkeypatch.setattr(module, "_download", download)
    assert fetch_kafka(cache=tmp_path) == [home / "a.jar"]
    assert (home / "a.jar").read_bytes() == b"abc"
    assert [entry.name for entry in tmp_path.iterdir()] == [home.name]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "full"), "no space left .*XDG_CACHE_HOME"),
        (PermissionError(errno.EACCES, "no"), "cannot be written: make it writable"),
        (ConnectionError("no route"), "could not be fetched .*check the network"),
    ],
)
def test_a_fetch_that_fails_says_what_to_do_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError, message: str
) -> None:
    def download(into: Path, _: module.Progress) -> None:
        (into / "half.jar").write_bytes(b"a")
        raise error

    monkeypatch.setattr(module, "_download", download)
    with pytest.raises(BrokerError, match=message):
        fetch_kafka(cache=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_unreachable_registry_is_one_clear_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(BrokerError, match=r"could not be fetched .*--bootstrap-servers") as caught:
        fetch_kafka(cache=tmp_path)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_given_cluster_is_used_and_none_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Broker, "start", lambda *_, **__: pytest.fail("a broker was started"))
    with broker_or_given("kafka.example:9092") as servers:
        assert servers == "kafka.example:9092"


def test_the_cache_follows_the_platform(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/cache/me")
    assert cache_dir() == Path("/var/cache/me/lifeline")
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert cache_dir() == Path.home() / ".cache" / "lifeline"
