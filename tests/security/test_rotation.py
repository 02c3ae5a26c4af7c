"""A real node whose callers change while it runs."""

import os
import signal
import time
from pathlib import Path

import pytest

from lifeline.client import LifelineClient, LifelineError
from lifeline.core.kafka_settings import KafkaSettings
from lifeline.core.security import CallSecurity, token_hash
from lifeline.core.topics import create_topics
from lifeline.core.vocabulary import Vocabulary
from lifeline.dev.node_process import NodeProcess, settings_for


def wait_for(node: NodeProcess, event: str) -> dict[str, object]:
    """Return the next log line of that name."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        line = node.next_event(1.0)
        if line is not None and line["event"] == event:
            return dict(line)
    raise AssertionError(f"the node did not log {event!r}")


@pytest.mark.kafka
def test_a_node_takes_new_tokens_while_it_runs(kafka_settings: KafkaSettings, tmp_path: Path) -> None:
    create_topics(kafka_settings)
    kafka = {
        f"kafka.{name}": getattr(kafka_settings, name)
        for name in ("actions_topic", "items_topic", "group_id", "partitions")
    }
    callers = {"security.callers": {"ops": {"token_sha256": token_hash("old"), "methods": ["ListPartitions"]}}}
    settings = settings_for(kafka_settings.bootstrap_servers, tmp_path, Vocabulary(), flags=kafka | callers)
    with NodeProcess(settings, tmp_path) as node:
        node.start()
        node.wait_ready(120)

        def ask(token: str) -> str:
            calls = CallSecurity(token=lambda: token)
            with LifelineClient(node.address, timeout_s=20, retry=False, security=calls) as client:
                try:
                    client.list_partitions()
                except LifelineError as error:
                    return error.reason
            return ""

        assert (ask("old"), ask("new")) == ("", "TOKEN_UNKNOWN")
        new = tmp_path / "new.toml"
        new.write_text(node.config.read_text().replace(token_hash("old"), token_hash("new")))
        new.rename(node.config)
        assert wait_for(node, "callers reloaded")["changed"] == ["ops"]
        assert (ask("old"), ask("new")) == ("TOKEN_UNKNOWN", "")
        # A file that is broken changes nothing, and a signal does not end the node.
        node.config.write_text("[security]\n")
        os.kill(node.pid, signal.SIGHUP)
        assert "no callers any more" in str(wait_for(node, "callers not reloaded: the previous ones stay valid")["why"])
        assert ask("new") == ""
        assert node.stop() == 0
    logged = node.log.read_text()
    assert token_hash("new") not in logged
    assert [line for line in logged.splitlines() if '"caller": "ops"' in line and "ListPartitions" in line]
