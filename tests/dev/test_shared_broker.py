"""The broker that all workers of a test session share."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lifeline.dev import broker
from lifeline.dev.kafka_jars import BrokerError
from tests.support.once import once
from tests.support.shared_broker import BrokerHost, shared_broker


def test_one_broker_is_started_for_all_who_ask_and_stopped_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []

    @contextmanager
    def fake(servers: str | None) -> Iterator[str]:
        assert servers is None
        log.append("started")
        yield "127.0.0.1:7"
        log.append("stopped")

    monkeypatch.setattr(broker, "cluster_or_broker", fake)
    answers: list[str] = []
    with BrokerHost() as host:
        assert log == []
        askers = [threading.Thread(target=lambda: answers.append(shared_broker(host.port))) for _ in range(4)]
        for asker in askers:
            asker.start()
        for asker in askers:
            asker.join()
        assert (answers, log) == (["127.0.0.1:7"] * 4, ["started"])
    assert log == ["started", "stopped"]
    with pytest.raises(OSError, match="refused"):
        shared_broker(host.port)


def test_a_broker_that_does_not_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(servers: str | None) -> str:
        raise BrokerError(f"no Java for {servers}")

    monkeypatch.setattr(broker, "cluster_or_broker", refuse)
    with BrokerHost() as host, pytest.raises(RuntimeError, match="cannot be used: no Java"):
        shared_broker(host.port)


def test_what_is_made_once_is_read_by_the_others(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> None:
    assert once(tmp_path_factory, tmp_path.name, lambda: "first") == "first"
    assert once(tmp_path_factory, tmp_path.name, lambda: "second") == "first"
