"""A model is trained on the topics alone, where there is no node's directory."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lifeline.cli import app
from lifeline.core.kafka_settings import KafkaSettings
from tests.e2e.conftest import NodeMaker
from tests.support.commands import run_cli
from tests.support.selection_world import DAY, DAYS, USERS, publish_world
from tests.support.states import states

pytestmark = pytest.mark.kafka

EVENTS = USERS * (20 + DAYS + 1)


def test_a_model_is_trained_on_topics_without_a_node(
    fresh_topics: KafkaSettings, make_node: NodeMaker, tmp_path: Path
) -> None:
    # It gives the settings, and is not started.
    node = make_node(fresh_topics)
    copy = tmp_path / "copy"
    of_copy = node.settings.model_copy(update={"node": node.settings.node.model_copy(update={"data_dir": copy})})

    def train() -> tuple[dict[str, Any], int]:
        done = run_cli(node, "train", "--from-topic", str(copy), "--steps", "2", "--variant", "none", "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout), sum(state.events for state in states(of_copy).values())

    begin_ms = int(time.time() * 1_000) - 60 * DAY
    publish_world(fresh_topics, begin_ms)
    first, stored = train()
    assert stored == EVENTS
    assert first["metrics"]["train_requests"] > 0
    # What is published again is stored once; what is new is learned from.
    publish_world(fresh_topics, begin_ms)
    publish_world(fresh_topics, begin_ms + 30 * DAY)
    second, stored = train()
    assert stored == 2 * EVENTS
    assert second["data"]["to_timestamp_ms"] > first["data"]["to_timestamp_ms"] + 20 * DAY
    assert second["metrics"]["train_requests"] > first["metrics"]["train_requests"]
    assert not list(node.settings.node.data_dir.glob("partition-*"))

    own = str(node.settings.node.data_dir)
    command = ["train", "--config", str(node.config), "--from-topic"]
    refused = CliRunner().invoke(app, [*command, own, "--steps", "2"])
    assert refused.exit_code == 1
    assert "the node's own directory" in str(refused.exception)
    assert CliRunner().invoke(app, [*command, str(copy), "--data-dir", own]).exit_code == 2
