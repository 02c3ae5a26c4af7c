"""A producer that makes item ids up pauses its own partition, and nobody's reads."""

import time
from urllib.request import urlopen

import pytest

from lifeline.client import LifelineClient
from lifeline.core.actions import Kind
from lifeline.core.kafka_settings import KafkaSettings
from lifeline.dev.node_process import NodeProcess
from lifeline.producer.producer import LifelineProducer
from lifeline.v1.action_pb2 import Action
from tests.e2e.conftest import READY_S, NodeMaker

pytestmark = pytest.mark.kafka
NOW_MS = 1_700_000_000_000
MOST, WITHIN_S = 20, 60.0


def metric(node: NodeProcess, name: str) -> float:
    with urlopen(f"http://{node.settings.node.http_address}/metrics", timeout=30) as answer:
        text: str = answer.read().decode()
    return next(float(line.split()[-1]) for line in text.splitlines() if line.startswith(f"{name} "))


def test_a_flood_of_new_items_stops_the_partition_and_its_users_are_read_on(
    fresh_topics: KafkaSettings, make_node: NodeMaker
) -> None:
    node = make_node(fresh_topics, store__max_items=MOST)
    node.start()
    node.wait_ready(READY_S)
    with (
        LifelineProducer(fresh_topics, vocabulary=node.settings.vocabulary) as producer,
        LifelineClient(node.address, timeout_s=30) as client,
    ):

        def publish(items: range) -> int:
            """Return the newest offset of the user's partition."""
            sent = [
                producer.publish(Action(user_id="ann", item_id=item, timestamp_ms=NOW_MS + at, action_type=1))
                for at, item in enumerate(items)
            ]
            return max(delivery.result(30).offset for delivery in sent)

        offset = publish(range(MOST))
        before = client.get_sequence("ann", min_offset=offset)
        publish(range(MOST, 5 * MOST))
        deadline = time.monotonic() + WITHIN_S
        while not (stopped := [status for status in client.list_partitions().held if status.state == "paused"]):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        (partition,) = stopped
        assert f"of {MOST} (store.max_items)" in partition.reason
        after = client.get_sequence("ann")
        assert after.as_of.applied_offset == before.as_of.applied_offset == offset
        assert after.as_of.lag_records == 4 * MOST
        assert after.sequences[Kind.EXPLICIT].length == MOST
        assert metric(node, "lifeline_item_ids") == metric(node, "lifeline_max_items") == MOST
    assert node.stop() == 0
