import time

import pytest

from lifeline.core.kafka_errors import TopicMismatchError
from lifeline.core.kafka_settings import KafkaSettings
from lifeline.core.topics import MAX_RECORD_BYTES
from lifeline.producer.best_effort_producer import BestEffortProducer
from lifeline.stream.topic_reader import read_topic

pytestmark = pytest.mark.kafka


def read(settings: KafkaSettings, topic: str) -> dict[bytes | None, bytes | None]:
    return {record.key: record.value for record in read_topic(settings, topic, advice="make it")}


def test_what_is_offered_is_published_and_a_stop_waits_for_it(kafka_settings: KafkaSettings) -> None:
    topic = f"side-{kafka_settings.group_id}"
    side = BestEffortProducer(kafka_settings, topic)
    offered = {f"user{number}".encode(): bytes([number]) * 100 for number in range(50)}
    assert all(side.offer(key, value) for key, value in offered.items())
    side.close(60)
    assert (side.published, side.dropped) == (50, 0)
    assert read(kafka_settings, topic) == offered
    assert not side.offer(b"late", b"x")
    assert side.dropped == 1
    side.close(1)


def test_a_topic_that_is_there_is_used_as_it_is(kafka_settings: KafkaSettings) -> None:
    topic = f"side-{kafka_settings.group_id}"
    for value in (b"first", b"second"):
        side = BestEffortProducer(kafka_settings, topic)
        side.offer(value, value)
        side.close(60)
    assert read(kafka_settings, topic) == {b"first": b"first", b"second": b"second"}


def test_what_the_topic_cannot_hold_is_dropped_and_counted(kafka_settings: KafkaSettings) -> None:
    side = BestEffortProducer(kafka_settings, f"side-{kafka_settings.group_id}")
    assert not side.offer(b"ann", bytes(MAX_RECORD_BYTES))
    side.close(60)
    assert (side.published, side.dropped) == (0, 1)


def test_a_cluster_that_is_away_costs_nobody_anything(kafka_settings: KafkaSettings) -> None:
    away = kafka_settings.model_copy(update={"bootstrap_servers": "127.0.0.1:1", "connect_timeout_ms": 0})
    side = BestEffortProducer(away, "side", max_waiting=10)
    begun = time.monotonic()
    taken = sum(side.offer(b"ann", b"x") for _ in range(1_000))
    assert time.monotonic() - begun < 1
    assert taken == 10
    assert side.dropped == 990
    begun = time.monotonic()
    side.close(5)
    assert time.monotonic() - begun < 5


def test_a_topic_that_is_not_there_is_one_sentence(kafka_settings: KafkaSettings) -> None:
    with pytest.raises(TopicMismatchError, match=r"topic nowhere does not exist: make it"):
        read(kafka_settings, "nowhere")
