"""An items topic that is deleted and created again."""

import time

from kafka import KafkaAdminClient

from lifeline.core.kafka_settings import KafkaSettings
from lifeline.core.topics import create_topics
from lifeline.producer.producer import LifelineProducer
from lifeline.v1.item_pb2 import Item


def publish_items(kafka: KafkaSettings, count: int, *, fill: int) -> None:
    """Publish items 0 to `count` - 1, each with an embedding of `fill` in every place."""
    with LifelineProducer(kafka) as producer:
        for number in range(count):
            producer.publish_item(Item(item_id=number, embedding=bytes([fill]) * 32, embedding_version=fill))


def recreate_items_topic(kafka: KafkaSettings) -> None:
    """Delete the items topic with its records, and create it again."""
    admin = KafkaAdminClient(bootstrap_servers=kafka.bootstrap_servers)
    try:
        admin.delete_topics([kafka.items_topic])
        deadline = time.monotonic() + 60
        while kafka.items_topic in admin.list_topics():
            assert time.monotonic() < deadline, "the topic is still there"
            time.sleep(0.05)
    finally:
        admin.close()
    create_topics(kafka)
