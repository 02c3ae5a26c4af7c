"""A node whose actions topic is given more partitions, while it runs and before it starts again."""

import json
import time
from urllib.request import urlopen

import pytest

from lifeline.client import LifelineClient, LifelineError
from lifeline.client.replies import PartitionInfo
from lifeline.core.actions import Kind
from lifeline.core.kafka_settings import KafkaSettings
from lifeline.dev.node_process import NodeProcess, write_settings
from tests.e2e.conftest import READY_S, NodeMaker
from tests.support.action_topics import actions, add_partitions, publish
from tests.support.commands import run_cli

pytestmark = pytest.mark.kafka


def paused(client: LifelineClient) -> list[PartitionInfo]:
    """Wait until all four partitions are paused."""
    deadline = time.monotonic() + 60
    while True:
        held = list(client.list_partitions().held)
        if [each.state for each in held] == ["paused"] * 4:
            return held
        assert time.monotonic() < deadline, held
        time.sleep(0.1)


def get(node: NodeProcess, path: str) -> str:
    with urlopen(f"http://{node.settings.node.http_address}{path}", timeout=30) as answer:
        return str(answer.read().decode())


def test_users_stay_where_they_are_found(fresh_topics: KafkaSettings, make_node: NodeMaker) -> None:
    before = actions(400)
    publish(fresh_topics, before)
    node = make_node(fresh_topics)
    node.start()
    node.wait_ready(READY_S)
    users = sorted({action.user_id for action in before})

    def check(client: LifelineClient) -> None:
        for held in paused(client):
            assert "4 partitions were added to the actions topic by 20" in held.reason
            assert "this data directory was built with 4" in held.reason
        assert [client.get_sequence(user).sequences[Kind.EXPLICIT].length for user in users] == lengths
        offset = client.get_sequence(users[0]).as_of.applied_offset + 1
        with pytest.raises(LifelineError, match=r"leave min_offset out.*4 partitions were added") as caught:
            client.get_sequence(users[0], min_offset=offset)
        assert caught.value.reason == "OFFSET_NOT_REACHED"
        assert (get(node, "/livez"), get(node, "/readyz")) == ("ok\n", "ok\n")
        assert "lifeline_added_partitions 4.0" in get(node, "/metrics")

    with LifelineClient(node.address, timeout_s=30) as client:
        lengths = [client.get_sequence(user).sequences[Kind.EXPLICIT].length for user in users]
        assert min(lengths) > 0
        add_partitions(fresh_topics, 8)
        check(client)
        publish(fresh_topics, actions(400, 400))
        check(client)
    assert node.stop() == 0
    # What an operator might try first. The directory knows better.
    kafka = node.settings.kafka.model_copy(update={"partitions": 8})
    write_settings(node.config, node.settings.model_copy(update={"kafka": kafka}))
    node.start()
    node.wait_ready(READY_S)
    with LifelineClient(node.address, timeout_s=30) as client:
        check(client)
        verified = run_cli(node, "verify", "--json")
        assert verified.returncode == 0, verified.stdout + verified.stderr
        assert json.loads(verified.stdout)["equal"]
    replayed = run_cli(node, "replay", "--into", str(node.settings.node.data_dir.parent / "again"), "--dry-run")
    assert replayed.returncode == 0
    write_settings(node.config, node.settings)
    refused = run_cli(node, "replay", "--into", str(node.settings.node.data_dir.parent / "again"), "--dry-run")
    assert refused.returncode == 1
    assert "has 8 partitions, and kafka.partitions is 4" in " ".join(refused.stderr.split())
