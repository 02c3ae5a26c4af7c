"""The broker dies and comes back: the node reads on meanwhile, and then goes on by itself."""

import time
from pathlib import Path

import pytest

from lifeline.client import LifelineClient
from lifeline.core.actions import Kind
from lifeline.core.kafka_settings import KafkaSettings
from lifeline.core.topics import create_topics
from lifeline.dev.broker import Broker, free_port
from lifeline.producer.producer import LifelineProducer
from lifeline.v1.action_pb2 import Action
from tests.e2e.conftest import READY_S, NodeMaker

pytestmark = pytest.mark.kafka


def test_a_broker_that_dies_comes_back_and_dies_again(tmp_path: Path, make_node: NodeMaker) -> None:
    port, logs = free_port(), tmp_path / "kafka"
    broker = Broker.start(logs, port=port)
    try:
        kafka = KafkaSettings(bootstrap_servers=broker.bootstrap_servers)
        create_topics(kafka)
        node = make_node(kafka)
        node.start()
        node.wait_ready(READY_S)
        with LifelineClient(node.address, timeout_s=60) as client:

            def act(item: int) -> int:
                with LifelineProducer(node.settings.kafka) as producer:
                    sent = Action(user_id="u", item_id=item, timestamp_ms=1_700_000_000_000 + item, action_type=1)
                    return producer.publish(sent).result(30).offset

            def items(offset: int | None = None) -> list[int]:
                sequence = client.get_sequence("u", min_offset=offset).sequences[Kind.EXPLICIT]
                return [identity.item_id for identity in sequence.identities()]

            assert items(act(1)) == [1]
            broker.kill()
            assert items() == [1]
            broker = Broker.start(logs, port=port)
            assert items(act(2)) == [1, 2]
        assert node.stop() == 0

        # A node stops well while the broker is away, too.
        node.start()
        node.wait_ready(READY_S)
        with LifelineProducer(kafka) as producer:
            producer.publish(Action(user_id="u", item_id=3, timestamp_ms=1, action_type=1)).result(30)
        broker.kill()
        began = time.monotonic()
        assert node.stop() == 0
        assert time.monotonic() - began < 15
    finally:
        broker.kill()
