"""Strangers in the nodes' group, with a real broker: the error says which group, who is in it, and what to set."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import aiokafka
import confluent_kafka
import pytest
from aiokafka.errors import (
    GroupAuthorizationFailedError,
    InvalidGroupIdError,
    InvalidSessionTimeoutError,
    UnknownError,
)

from lifeline.core.kafka_errors import GroupConflictError
from lifeline.core.kafka_settings import KafkaSettings
from lifeline.core.topics import create_topics
from lifeline.stream.group_errors import group_error
from tests.support.stream_harness import Node


@asynccontextmanager
async def classic_stranger(kafka: KafkaSettings) -> AsyncIterator[None]:
    """A consumer with the client's default assignor in the nodes' group."""
    consumer = aiokafka.AIOKafkaConsumer(
        kafka.actions_topic,
        bootstrap_servers=kafka.bootstrap_servers,
        group_id=kafka.group_id,
        client_id="reporting",
    )
    await consumer.start()
    try:
        yield
    finally:
        await consumer.stop()


@contextmanager
def modern_stranger(kafka: KafkaSettings) -> Iterator[None]:
    """A consumer with the consumer protocol of Kafka 4 in the nodes' group."""
    consumer = confluent_kafka.Consumer(
        {
            "bootstrap.servers": kafka.bootstrap_servers,
            "group.id": kafka.group_id,
            "group.protocol": "consumer",
            "client.id": "reporting",
        }
    )
    assigned, over = threading.Event(), threading.Event()
    consumer.subscribe([kafka.actions_topic], on_assign=lambda *_: assigned.set())

    def poll() -> None:
        while not over.is_set():
            consumer.poll(0.1)

    thread = threading.Thread(target=poll)
    thread.start()
    try:
        assert assigned.wait(30)
        yield
    finally:
        over.set()
        thread.join()
        consumer.close()


async def run(node: Node) -> None:
    async with node.running(), asyncio.timeout(30):
        await node.stream.wait()


@pytest.mark.kafka
async def test_a_consumer_with_another_assignor_is_named(kafka_settings: KafkaSettings) -> None:
    create_topics(kafka_settings)
    async with classic_stranger(kafka_settings):
        with pytest.raises(GroupConflictError) as refused:
            await run(Node(kafka_settings))
    message = str(refused.value)
    assert f"group {kafka_settings.group_id} has members that are no nodes: reporting at /127.0.0.1" in message
    assert "placing partitions by roundrobin instead of lifeline" in message
    assert "set kafka.group_id" in message


@pytest.mark.kafka
async def test_a_group_of_the_new_protocol_is_named(kafka_settings: KafkaSettings) -> None:
    create_topics(kafka_settings)
    with modern_stranger(kafka_settings), pytest.raises(GroupConflictError) as refused:
        await run(Node(kafka_settings))
    message = str(refused.value)
    assert f"group {kafka_settings.group_id} has members that are no nodes: it is of type consumer" in message
    assert "set kafka.group_id" in message


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (InvalidSessionTimeoutError(), r"kafka\.session_timeout_ms = 10000: set it .*group\.min\.session\.timeout\.ms"),
        (InvalidGroupIdError(), r"kafka\.group_id = 'lifeline': set another one"),
        (GroupAuthorizationFailedError("lifeline"), r"may not join group lifeline: .*--operation Read"),
    ],
)
def test_other_refusals_name_the_setting(error: Exception, message: str) -> None:
    refusal = group_error(KafkaSettings(), error)
    assert isinstance(refusal, GroupConflictError)
    with pytest.raises(GroupConflictError, match=message):
        raise refusal


@pytest.mark.parametrize("error", [UnknownError(), OSError(), None])
def test_other_errors_are_none_of_the_groups(error: Exception | None) -> None:
    assert group_error(KafkaSettings(), error) is None
