import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kafka import KafkaConsumer, TopicPartition
from kafka.errors import NotEnoughReplicasError
from kafka.partitioner.default import DefaultPartitioner
from kafka.producer.future import FutureProduceResult, FutureRecordMetadata

from lifeline.core.kafka_errors import ClusterUnreachableError, InvalidActionError, InvalidItemError, PublishError
from lifeline.core.kafka_settings import KafkaSettings
from lifeline.core.partitioner import partition_of
from lifeline.core.topics import create_topics
from lifeline.core.vocabulary import Vocabulary
from lifeline.producer.producer import LifelineProducer, make_item
from lifeline.v1.action_pb2 import Action
from lifeline.v1.item_pb2 import Item


def action(user: str = "ann", **fields: Any) -> Action:
    values: dict[str, Any] = {"item_id": 7, "timestamp_ms": 1_000, "action_type": 1, "surface": 2}
    return Action(user_id=user, **(values | fields))


@pytest.fixture
def producer(kafka_settings: KafkaSettings) -> Iterator[LifelineProducer]:
    create_topics(kafka_settings)
    with LifelineProducer(kafka_settings) as producer:
        yield producer


def read(settings: KafkaSettings, topic: str) -> list[Any]:
    """Every record of a topic, by an independent reader."""
    consumer = KafkaConsumer(bootstrap_servers=settings.bootstrap_servers, consumer_timeout_ms=10_000)
    try:
        partitions = [TopicPartition(topic, number) for number in consumer.partitions_for_topic(topic)]
        consumer.assign(partitions)
        consumer.seek_to_beginning(*partitions)
        ends = consumer.end_offsets(partitions)
        records: list[Any] = []
        while any(consumer.position(each) < ends[each] for each in partitions):
            for batch in consumer.poll(timeout_ms=1_000).values():
                records += batch
        return records
    finally:
        consumer.close()


@pytest.mark.kafka
def test_actions_arrive_at_the_partition_of_the_clients_default_partitioner(
    producer: LifelineProducer, kafka_settings: KafkaSettings
) -> None:
    sent = [action(f"user-{n}", item_id=n, event_id=f"e{n}") for n in range(200)]
    deliveries = [producer.publish(each) for each in sent]
    producer.flush()
    records = read(kafka_settings, kafka_settings.actions_topic)
    assert len(records) == 200

    class Cluster:
        def topics(self) -> set[str]:
            return {"t"}

        def partitions_for_topic(self, _: str) -> set[int]:
            return set(range(kafka_settings.partitions))

        def available_partitions_for_topic(self, _: str) -> set[int]:
            return set(range(kafka_settings.partitions))

    for record in records:
        expected = DefaultPartitioner().partition("t", None, record.key, None, None, Cluster())
        assert record.partition == expected == partition_of(record.key, kafka_settings.partitions)
    by_place = {(record.partition, record.offset): record for record in records}
    for each, delivery in zip(sent, deliveries, strict=True):
        assert delivery.done
        place = delivery.result()
        record = by_place[place.partition, place.offset]
        assert Action.FromString(record.value) == each
        assert record.timestamp == place.timestamp_ms


@pytest.mark.kafka
def test_an_embedding_goes_once_beside_the_first_action_on_its_item(
    producer: LifelineProducer, kafka_settings: KafkaSettings
) -> None:
    embedding = np.linspace(-0.7, 0.7, 32, dtype=np.float32)
    for n in range(6):
        producer.publish(action(item_id=n % 2), embedding=embedding, embedding_version=3)
    producer.flush()
    records = read(kafka_settings, kafka_settings.items_topic)
    assert sorted(record.key for record in records) == [b"0", b"1"]
    item = Item.FromString(records[0].value)
    assert item.embedding_version == 3
    assert np.frombuffer(item.embedding, np.int8)[[0, 31]].tolist() == [-58, 58]


@pytest.mark.kafka
def test_null_values_erase_a_user_and_forget_an_item(producer: LifelineProducer, kafka_settings: KafkaSettings) -> None:
    place = producer.erase("zoë").result(10)
    producer.forget_item(2**64 - 1).result(10)
    (record,) = read(kafka_settings, kafka_settings.actions_topic)
    assert (record.key, record.value, record.offset) == ("zoë".encode(), None, place.offset)
    (record,) = read(kafka_settings, kafka_settings.items_topic)
    assert (record.key, record.value) == (b"18446744073709551615", None)


@pytest.mark.kafka
def test_a_callback_hears_of_the_acknowledgement(producer: LifelineProducer) -> None:
    heard: list[int] = []
    delivery = producer.publish(action())
    delivery.add_done_callback(lambda done: heard.append(done.result().offset))
    producer.flush()
    assert heard == [delivery.result().offset]


@pytest.mark.kafka
def test_more_than_the_producer_holds_back_for(producer: LifelineProducer) -> None:
    message = action()
    for _ in range(80_000):
        producer.publish(message)
    assert len(producer._checkpoints) == 16
    producer.flush()
    assert producer.publish(message).result(10).offset == 80_000


@pytest.mark.kafka
def test_a_topic_that_is_not_there(kafka_settings: KafkaSettings) -> None:
    hasty = kafka_settings.model_copy(update={"request_timeout_ms": 1_000})
    with LifelineProducer(hasty) as producer, pytest.raises(PublishError, match="lifeline topics create"):
        producer.publish(action())


@pytest.mark.kafka
def test_a_record_that_failed_is_heard_of_by_its_delivery_and_by_the_flush(producer: LifelineProducer) -> None:
    future = FutureRecordMetadata(FutureProduceResult(TopicPartition("t", 0)), 0, 0, None, 0, 0, 0)
    send = producer._producer.send
    producer._producer.send = lambda *_, **__: future
    delivery = producer.publish(action())
    with pytest.raises(TimeoutError):
        delivery.result(0.01)
    future.failure(NotEnoughReplicasError())
    with pytest.raises(PublishError, match="publish it again"):
        delivery.result()
    with pytest.raises(PublishError, match="1 records were not acknowledged"):
        producer.flush()
    producer._producer.send = send
    producer.flush()


@pytest.mark.kafka
def test_an_embedding_that_failed_is_sent_again(
    producer: LifelineProducer, kafka_settings: KafkaSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedding = np.ones(32, np.int8)
    with monkeypatch.context() as patch:

        def refuse(*_: Any, **__: Any) -> None:
            raise NotEnoughReplicasError

        patch.setattr(producer._producer, "send", refuse)
        with pytest.raises(PublishError):
            producer.publish(action(item_id=1), embedding=embedding)
        future = FutureRecordMetadata(FutureProduceResult(TopicPartition("t", 0)), 0, 0, None, 0, 0, 0)
        patch.setattr(producer._producer, "send", lambda *_, **__: future)
        producer.publish(action(item_id=2), embedding=embedding)
        future.failure(NotEnoughReplicasError())
    with pytest.raises(PublishError):
        producer.flush()
    for item_id in (1, 2, 2):
        producer.publish(action(item_id=item_id), embedding=embedding)
    producer.flush()
    assert sorted(record.key for record in read(kafka_settings, kafka_settings.items_topic)) == [b"1", b"2"]


def test_a_cluster_that_is_not_there() -> None:
    with pytest.raises(ClusterUnreachableError, match="bootstrap-servers"):
        LifelineProducer(KafkaSettings(bootstrap_servers="127.0.0.1:1", connect_timeout_ms=200))


@pytest.mark.kafka
@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (action(""), "0 bytes: give 1 to 256"),
        (action("é" * 129), "258 bytes"),
        (action(timestamp_ms=0), "above 0"),
        (action(timestamp_ms=-5), "timestamp_ms is -5"),
        (action(action_type=0), "action_type is 0"),
        (action(action_type=65), "action_type is 65"),
        (action(surface=256), "surface is 256"),
        (action(action_type=64), "action_type 64 is not in the vocabulary"),
        (action(surface=255), "surface 255 is not in the vocabulary"),
    ],
)
def test_what_a_node_would_dead_letter_is_refused(kafka_settings: KafkaSettings, bad: Action, message: str) -> None:
    with LifelineProducer(kafka_settings, vocabulary=Vocabulary()) as producer:
        with pytest.raises(InvalidActionError, match=message):
            producer.publish(bad)
        producer.flush()


def test_embeddings_are_quantized_as_the_wire_contract_says() -> None:
    floats = np.zeros(32, np.float32)
    floats[:5] = [127, -127, 64, 0.49, 1.51]
    for scale in (0.001, 1, 1_000):
        assert np.frombuffer(make_item(1, floats * scale).embedding, np.int8)[:5].tolist() == [127, -127, 64, 0, 2]
    ready = np.arange(32, dtype=np.int8)
    assert make_item(1, ready).embedding == ready.tobytes() == make_item(1, ready.tobytes()).embedding


@pytest.mark.parametrize(
    "embedding", [b"", b"a" * 31, np.ones(33), bytes(32), np.zeros(32), np.full(32, np.nan), np.full(32, np.inf)]
)
def test_an_embedding_that_is_none(embedding: Any) -> None:
    with pytest.raises(InvalidItemError, match=r"^item 17\b"):
        make_item(17, embedding)


def test_an_item_id_that_is_none() -> None:
    with pytest.raises(InvalidItemError, match="unsigned"):
        make_item(-1, b"a" * 32)


def test_the_producer_needs_the_bare_package_alone() -> None:
    code = (
        "import sys; import lifeline.producer, lifeline.core.topics\n"
        "print([name for name in ('torch', 'rocksdict', 'faust', 'aiokafka', 'pcodec') if name in sys.modules])"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    assert out.stdout.strip() == "[]"
