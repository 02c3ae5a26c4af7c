import errno
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

from lifeline.core.scratch import cache_dir
from lifeline.dev import broker as module
from lifeline.dev.broker import Broker, cluster_or_broker, free_port
from lifeline.dev.kafka_jars import KAFKA_VERSION, LOCK, BrokerError, locked_jars

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
    assert not broker.is_running
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
        "import pathlib, sys, time; from lifeline.dev.broker import Broker\n"
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


def test_a_given_cluster_is_used_and_none_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Broker, "start", lambda *_, **__: pytest.fail("a broker was started"))
    with cluster_or_broker("kafka.example:9092") as servers:
        assert servers == "kafka.example:9092"


def cache_with_one_jar_changed(base: Path) -> Path:
    """Make a cache of the user's jars (hard links), one of them with another bit; return that one."""
    home = base / "lifeline" / f"kafka-{KAFKA_VERSION}"
    home.mkdir(parents=True)
    for jar in locked_jars():
        (home / jar.name).hardlink_to(cache_dir() / home.name / jar.name)
    changed = home / locked_jars()[-1].name
    content = bytearray(changed.read_bytes())
    content[len(content) // 2] ^= 1
    changed.unlink()
    changed.write_bytes(content)
    return changed


def test_a_changed_jar_is_never_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bootstrap_servers: str
) -> None:
    assert bootstrap_servers  # The jars are in the user's cache, then.
    changed = cache_with_one_jar_changed(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("a process was started"))
    with pytest.raises(BrokerError, match=rf"{changed.name} is not the jar that {LOCK.name} names.*remove "):
        Broker.start(tmp_path / "data")


def test_a_jar_too_many_is_not_on_the_class_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bootstrap_servers: str
) -> None:
    assert bootstrap_servers
    changed = cache_with_one_jar_changed(tmp_path)
    changed.unlink()
    changed.hardlink_to(cache_dir() / changed.parent.name / changed.name)
    (changed.parent / "a-stranger.jar").write_bytes(changed.read_bytes())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with Broker.start(tmp_path / "data") as broker:
        arguments = Path(f"/proc/{broker.pid}/cmdline").read_bytes().decode().split("\0")
    jars = arguments[arguments.index("-cp") + 1].split(":")
    assert jars == [str(changed.parent / jar.name) for jar in locked_jars()]
