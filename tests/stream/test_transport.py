"""What we rely on of the private seam of Faust's aiokafka driver: a new version that moves any of it fails here."""

import inspect
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import aiokafka
import pytest
from aiokafka.consumer.fetcher import Fetcher as ClientFetcher
from aiokafka.structs import ConsumerRecord
from faust.app.base import App, BootStrategy
from faust.tables import TableManager
from faust.tables.recovery import Recovery
from faust.transport.consumer import Fetcher
from faust.transport.drivers import aiokafka as driver
from faust.types import TP

from lifeline.core.kafka_settings import KafkaSettings
from lifeline.core.topics import create_topics
from lifeline.producer.producer import LifelineProducer
from lifeline.stream import transport
from lifeline.v1.action_pb2 import Action
from tests.support.stream_harness import Node, until

CONSUMER, THREAD = driver.Consumer, driver.AIOKafkaConsumerThread

SIGNATURES: list[tuple[type, str, list[str], bool]] = [
    (CONSUMER, "_drain_messages", ["self", "fetcher"], True),
    (CONSUMER, "_wait_next_records", ["self", "timeout"], True),
    (CONSUMER, "seek_to_committed", ["self"], True),
    (CONSUMER, "perform_seek", ["self"], True),
    (CONSUMER, "on_partitions_revoked", ["self", "revoked"], True),
    (CONSUMER, "on_partitions_assigned", ["self", "assigned", "generation_id"], True),
    (CONSUMER, "seek_wait", ["self", "partitions"], True),
    (CONSUMER, "earliest_offsets", ["self", "partitions"], True),
    (CONSUMER, "highwaters", ["self", "partitions"], True),
    (CONSUMER, "assignment", ["self"], False),
    (CONSUMER, "pause_partitions", ["self", "tps"], False),
    (CONSUMER, "resume_partitions", ["self", "tps"], False),
    (CONSUMER, "_get_active_partitions", ["self"], False),
    (CONSUMER, "_new_consumer_thread", ["self"], False),
    (CONSUMER, "verify_event_path", ["self", "now", "tp"], False),
    (THREAD, "_create_worker_consumer", ["self", "transport"], False),
    (THREAD, "_ensure_consumer", ["self"], False),
    (THREAD, "on_thread_stop", ["self"], True),
    (THREAD, "call_thread", ["self", "fun", "args", "kwargs"], True),
    (TableManager, "_update_channels", ["self"], True),
    (TableManager, "on_start", ["self"], True),
    (App, "_new_transport", ["self"], False),
    (App, "_create_directories", ["self"], False),
]


@pytest.mark.parametrize(("owner", "name", "parameters", "is_async"), SIGNATURES)
def test_signatures(owner: type, name: str, parameters: list[str], is_async: bool) -> None:
    function = inspect.unwrap(getattr(owner, name))
    assert list(inspect.signature(function).parameters) == parameters
    assert inspect.iscoroutinefunction(function) == is_async


def test_versions_are_the_ones_that_were_looked_at() -> None:
    assert version("faust-streaming").startswith("0.15.")
    assert version("aiokafka").startswith(("0.13.", "0.14."))


def test_the_fetcher_runs_our_drain_and_recovery_asks_for_our_positions() -> None:
    assert "consumer._drain_messages(self)" in inspect.getsource(Fetcher._fetcher.fun)
    resume = inspect.getsource(Recovery._resume_streams)
    steps = ["resume_partitions(", "perform_seek()", "consumer.resume_flow()", "_fetcher.maybe_start()"]
    places = [resume.index(step) for step in steps]
    assert places == sorted(places)
    assert "await self.seek_to_committed()" in inspect.getsource(CONSUMER.perform_seek)


def test_records_are_fetched_whole_for_the_partitions_that_are_asked_for() -> None:
    assert list(inspect.signature(ClientFetcher.fetched_records).parameters) == [
        "self",
        "partitions",
        "timeout",
        "max_records",
    ]
    assert "if not self.consumer.flow_active:" in inspect.getsource(THREAD._fetch_records)
    assert {"topic", "partition", "offset", "timestamp", "key", "value", "headers"} <= set(
        ConsumerRecord.__dataclass_fields__
    )


def test_what_is_off_can_be_turned_off() -> None:
    for name in ("enable_kafka_producer", "enable_web"):
        assert hasattr(BootStrategy, name)
    assert {"isolation_level", "group_instance_id", "max_poll_records", "rebalance_timeout_ms"} <= set(
        inspect.signature(aiokafka.AIOKafkaConsumer).parameters
    )


@pytest.mark.kafka
async def test_the_order_of_a_rebalance(kafka_settings: KafkaSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every assignment seeks with the flow stopped; every revocation stops the flow before we hear of it."""
    create_topics(kafka_settings)
    log: list[tuple[str, bool, frozenset[int]]] = []
    seek = transport._Consumer.seek_to_committed

    async def spy_on_seek(consumer: Any) -> Mapping[TP, int]:
        active = frozenset(tp.partition for tp in consumer._get_active_partitions())
        if consumer.app.handler is node.stream._updater:
            log.append(("seek", consumer.flow_active, active))
        result = await seek(consumer)
        assert consumer._get_active_partitions() == set()
        return result

    monkeypatch.setattr(transport._Consumer, "seek_to_committed", spy_on_seek)
    node = Node(kafka_settings)
    other = Node(kafka_settings)
    updater = node.make_updater()
    revoked = updater.on_revoked

    async def spy_on_revoked(partitions: frozenset[int]) -> None:
        log.append(("revoked", node.stream._app.consumer.flow_active, partitions))
        await revoked(partitions)

    monkeypatch.setattr(updater, "on_revoked", spy_on_revoked)
    monkeypatch.setattr(node, "make_updater", lambda: updater)
    async with node.running():
        await until(lambda: len(node.serving()) == 4)
        generation = node.stream._app.consumer_generation_id
        async with other.running():
            await until(lambda: len(node.serving()) == 2 and len(other.serving()) == 2)
        await until(lambda: len(node.serving()) == 4)
        assert node.stream._app.consumer_generation_id > generation
    kept = set(range(4))
    assert log[0] == ("revoked", True, frozenset())
    calls = [entry for entry in log[1:] if entry[0] == "seek" or entry[2]]
    assert [name for name, _, _ in calls] == ["seek", "revoked", "seek", "revoked", "seek"]
    assert {flow for name, flow, _ in calls if name == "revoked"} == {False}
    assert calls[0][2] == calls[1][2] == calls[4][2] == kept
    assert len(calls[2][2]) == len(calls[3][2]) == 2
    # The flow is stopped by every revocation that had something to stop, and resumed after the seek alone.
    assert [flow for name, flow, _ in calls if name == "seek"][1:] == [False, False]


@pytest.mark.kafka
async def test_a_single_record_right_after_a_rebalance_arrives(kafka_settings: KafkaSettings) -> None:
    """A fetch that began before the rebalance may be the one that returns it; and one node has no partition."""
    kafka = kafka_settings.model_copy(update={"partitions": 1})
    create_topics(kafka)
    first = Node(kafka)

    async def join_and_publish(producer: LifelineProducer, number: int) -> None:
        second = Node(kafka)
        async with second.running():
            await until(lambda: len(first.serving()) + len(second.serving()) == 1)
            producer.publish(Action(user_id="u", item_id=number, timestamp_ms=1, action_type=1)).result(10)
            await until(lambda: number in {len(first.events()), len(second.events())}, 10)

    with LifelineProducer(kafka) as producer:
        async with first.running():
            await until(lambda: first.serving() == {0})
            for number in range(1, 4):
                await join_and_publish(producer, number)
                await until(lambda: first.serving() == {0})


@pytest.mark.kafka
async def test_nothing_of_fausts_is_left_behind(
    kafka_settings: KafkaSettings, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    create_topics(kafka_settings)
    monkeypatch.chdir(tmp_path)
    node = Node(kafka_settings)
    async with node.running():
        await until(lambda: len(node.serving()) == 4)
        thread = node.stream._app.consumer._thread
        topics: set[str] = await thread.call_thread(thread._ensure_consumer().topics)
    assert not [topic for topic in topics if kafka_settings.group_id in topic]
    assert list(tmp_path.iterdir()) == []
