"""Transactions on the actions topic: aborted ones, and one that stays open."""

import asyncio

import pytest
from kafka import KafkaProducer

from lifeline.core.kafka_settings import KafkaSettings
from lifeline.core.partitioner import partition_of
from lifeline.stream.partition import PartitionState, PartitionStatus
from lifeline.stream.settings import UpdaterSettings
from tests.support.action_topics import actions, as_events, publish
from tests.support.stream_harness import Node, caught_up, until

pytestmark = pytest.mark.kafka


async def test_aborted_transactions_are_not_applied_and_their_markers_are_no_lag(kafka: KafkaSettings) -> None:
    published = actions(300)
    producer = KafkaProducer(
        bootstrap_servers=kafka.bootstrap_servers, transactional_id=f"tx-{kafka.group_id}", acks="all"
    )
    producer.init_transactions()
    for batch in range(3):
        producer.begin_transaction()
        for action in published[100 * batch : 100 * batch + 100]:
            producer.send(kafka.actions_topic, key=action.user_id.encode(), value=action.SerializeToString())
        producer.flush()
        if batch == 1:
            producer.abort_transaction()
        else:
            producer.commit_transaction()
    producer.close()
    node = Node(kafka)
    async with node.running():
        await caught_up(node, 200)
        await until(lambda: all(each.lag == 0 for each in node.stream.status()))
    assert node.events() == as_events(published[:100] + published[200:])


async def test_a_transaction_that_stays_open_is_lag_and_a_pause_that_ends_with_it(kafka: KafkaSettings) -> None:
    home = partition_of(b"user-1", 4)
    mine = [action for action in actions(600) if partition_of(action.user_id.encode(), 4) == home]
    publish(kafka, mine[:10])
    node = Node(kafka, UpdaterSettings(batch_max_wait_ms=5, stall_after_ms=4_000))

    def status() -> PartitionStatus:
        found: PartitionStatus = next(each for each in node.stream.status() if each.partition == home)
        return found

    producer = KafkaProducer(
        bootstrap_servers=kafka.bootstrap_servers, transactional_id=f"tx-{kafka.group_id}", acks="all"
    )
    producer.init_transactions()
    async with node.running():
        await caught_up(node, 10)
        producer.begin_transaction()
        value = mine[10].SerializeToString()
        first = producer.send(kafka.actions_topic, key=mine[10].user_id.encode(), value=value).get(30).offset
        publish(kafka, mine[11:20])
        await until(lambda: status().state is PartitionState.PAUSED, what="the pause")
        await until(lambda: status().lag == 10, what="the lag")
        assert (status().applied_offset, status().is_served, len(node.serving())) == (first - 1, True, 3)
        assert f"a transaction that began at offset {first} has been open since" in status().reason
        assert len(node.events()) == 10
        # A node that starts now reads what can be read, and does not wait for the rest.
        late = Node(kafka.model_copy(update={"group_id": kafka.group_id + "-late"}), node.updater)
        async with late.running():
            await until(lambda: len(late.directory.served) == 4, what="the late node")
            assert late.events() == node.events()
        await asyncio.to_thread(producer.abort_transaction)
        await caught_up(node, 19)
        await until(lambda: status().lag == 0 and status().reason == "")
    producer.close()
    assert node.events() == as_events(mine[:10] + mine[11:20])
    seen = [state for partition, state in node.states if partition == home]
    assert PartitionState.STALLED not in seen
    assert seen[-4:] == [PartitionState.SERVING, PartitionState.PAUSED, PartitionState.SERVING, PartitionState.REVOKED]
