"""Actions in a topic, and what a store has of them."""

import time

from kafka import KafkaAdminClient, TopicPartition

from lifeline.core.kafka_settings import KafkaSettings
from lifeline.core.topics import actions_topic_partitions
from lifeline.producer.producer import LifelineProducer
from lifeline.v1.action_pb2 import Action


def actions(count: int, start: int = 0) -> list[Action]:
    return [
        Action(user_id=f"user-{n % 97}", item_id=n, timestamp_ms=1_000 + n, action_type=1 + n % 5, surface=n % 4)
        for n in range(start, start + count)
    ]


def publish(kafka: KafkaSettings, batch: list[Action]) -> None:
    with LifelineProducer(kafka) as producer:
        for action in batch:
            producer.publish(action)


def as_events(batch: list[Action]) -> list[tuple[bytes, int, int, int]]:
    return sorted((a.user_id.encode(), a.timestamp_ms, a.item_id, a.action_type << 8 | a.surface) for a in batch)


def add_partitions(kafka: KafkaSettings, count: int) -> None:
    """Give the actions topic `count` partitions, as `kafka-topics.sh --alter` does; return once the broker says so."""
    admin = KafkaAdminClient(bootstrap_servers=kafka.bootstrap_servers)
    try:
        admin.create_partitions({kafka.actions_topic: count})
    finally:
        admin.close()
    deadline = time.monotonic() + 20
    while actions_topic_partitions(kafka) != count:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def delete_before(kafka: KafkaSettings, partition: int, offset: int) -> None:
    admin = KafkaAdminClient(bootstrap_servers=kafka.bootstrap_servers)
    try:
        admin.delete_records({TopicPartition(kafka.actions_topic, partition): offset})
    finally:
        admin.close()
