"""Every codec of Kafka, without further packages: what a producer compresses, and what a topic recompresses."""

import random

import pytest
from kafka import KafkaAdminClient, codec
from kafka.admin import ConfigResource, ConfigResourceType

from lifeline.core.kafka_settings import KafkaSettings
from lifeline.core.topics import create_topics
from lifeline.producer.codecs import provide_codecs
from lifeline.producer.producer import LifelineProducer
from lifeline.stream.dead_letter_reader import read_letters
from lifeline.stream.topic_reader import read_topic
from lifeline.v1.action_pb2 import Action

CODECS = ("gzip", "snappy", "lz4", "zstd")
ADVICE = "create it"


def actions(count: int) -> list[Action]:
    return [
        Action(user_id=f"user-{number % 7}", item_id=number, timestamp_ms=1_000 + number, action_type=1)
        for number in range(count)
    ]


@pytest.mark.parametrize("name", ["snappy", "lz4", "zstd"])
@pytest.mark.parametrize("size", [1, 100_000])
def test_the_client_library_packs_and_unpacks(name: str, size: int) -> None:
    provide_codecs()
    provide_codecs()
    data = random.Random(size).randbytes(size // 2) + bytes(size - size // 2)
    packed = getattr(codec, f"{name}_encode")(data)
    assert getattr(codec, f"{name}_decode")(packed) == data
    assert size < 100 or len(packed) < 0.6 * size


@pytest.mark.kafka
@pytest.mark.parametrize("name", CODECS)
def test_each_codec_is_published_and_read(kafka_settings: KafkaSettings, name: str) -> None:
    create_topics(kafka_settings)
    settings = KafkaSettings.model_validate(kafka_settings.model_dump() | {"compression": name})
    sent = actions(500)
    with LifelineProducer(settings, linger_ms=50) as producer:
        for action in sent:
            producer.publish(action)
    read = [
        Action.FromString(record.value or b"") for record in read_topic(settings, settings.actions_topic, advice=ADVICE)
    ]
    assert sorted(read, key=lambda action: action.item_id) == sent


@pytest.mark.kafka
@pytest.mark.parametrize("name", CODECS)
def test_topics_that_the_broker_compresses_are_read(kafka_settings: KafkaSettings, name: str) -> None:
    create_topics(kafka_settings)
    topic = kafka_settings.dead_letter_topic
    admin = KafkaAdminClient(bootstrap_servers=kafka_settings.bootstrap_servers)
    try:
        admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, {"compression.type": name})])
    finally:
        admin.close()
    with LifelineProducer(kafka_settings.model_copy(update={"actions_topic": topic}), linger_ms=50) as producer:
        for action in actions(500):
            producer.publish(action)
    letters = list(read_letters(kafka_settings))
    assert sorted(Action.FromString(letter.record.value or b"").item_id for letter in letters) == list(range(500))
