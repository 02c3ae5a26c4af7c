"""A node that runs is copied, and another one goes on from the copy."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from lifeline.client import LifelineClient, LifelineError
from lifeline.core.actions import Kind
from lifeline.core.kafka_settings import KafkaSettings
from lifeline.dev.node_process import NodeProcess
from lifeline.producer.producer import LifelineProducer
from lifeline.v1.action_pb2 import Action
from tests.e2e.conftest import READY_S, NodeMaker
from tests.support.permissions import open_to_others

pytestmark = pytest.mark.kafka
NOW_MS = 1_700_000_000_000
FIRST, MORE = 40, 7


def lifeline(node: NodeProcess, *arguments: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-m", "lifeline", *arguments, "--json", "--config", str(node.config)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_new_owner_restores_the_newest_snapshot_and_replays_only_what_follows(
    fresh_topics: KafkaSettings, make_node: NodeMaker, tmp_path: Path
) -> None:
    url = f"file://{tmp_path}/snapshots"
    first = make_node(fresh_topics, "first", snapshot__url=url, snapshot__keep=1)
    first.start()
    first.wait_ready(READY_S)
    user = "u1"
    with (
        LifelineProducer(fresh_topics, vocabulary=first.settings.vocabulary) as producer,
        LifelineClient(first.address, timeout_s=30) as client,
    ):

        def publish(items: range) -> int:
            """Return the newest offset."""
            sent = [
                producer.publish(Action(user_id=user, item_id=item, timestamp_ms=NOW_MS + item, action_type=1))
                for item in items
            ]
            return max(delivery.result(30).offset for delivery in sent)

        offset = publish(range(FIRST))
        client.get_sequence(user, min_offset=offset)
        made = lifeline(first, "snapshot", "create")
        assert [snapshot["partition"] for snapshot in made] == list(range(fresh_topics.partitions))
        assert sum(snapshot["events"] for snapshot in made) == FIRST
        offset = publish(range(FIRST, FIRST + MORE))
        before = client.get_sequence(user, min_offset=offset).sequences[Kind.EXPLICIT].identities()
        with pytest.raises(LifelineError, match="does not serve partition 99"):
            client.create_snapshot([99])
    assert first.stop() == 0

    second = make_node(fresh_topics, "second", snapshot__url=url)
    second.start()
    applied: list[int] = []
    restored: dict[int, str] = {}

    def follow(event: Mapping[str, Any]) -> None:
        if event["event"] == "progress":
            applied.append(event["applied"])
        elif event["event"] == "restored":
            restored[event["partition"]] = event["snapshot"]

    second.wait_ready(READY_S, follow)
    assert restored == {snapshot["partition"]: snapshot["id"] for snapshot in made}
    assert applied[-1] == MORE
    with LifelineClient(second.address, timeout_s=30) as client:
        answer = client.get_sequence(user, min_offset=offset)
        assert answer.sequences[Kind.EXPLICIT].identities() == before
        assert answer.sequences[Kind.EXPLICIT].length == FIRST + MORE
    assert second.stop() == 0
    for place in (first.settings.node.data_dir, second.settings.node.data_dir, tmp_path / "snapshots"):
        assert open_to_others(place) == []
