"""Partitions that are added to the actions topic: nodes stop where they are, and answer on."""

import asyncio

import pytest

from lifeline.core.kafka_settings import KafkaSettings
from lifeline.core.topics import create_topics
from lifeline.stream.partition import PartitionState
from lifeline.stream.settings import UpdaterSettings
from lifeline.stream.standby_status import StandbyState
from tests.support.action_topics import actions, add_partitions, as_events, publish
from tests.support.records import PARTITION
from tests.support.stream_harness import Node, until
from tests.support.updater_harness import FakeLog, hand_over, items, make_node, records, updating

WITHIN_S = 60.0


async def test_what_was_handed_over_before_is_applied_and_nothing_after(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lifeline.stream.lifecycle._FOLLOW_END_S", 0.01)
    node, log = make_node(), FakeLog(0, 3)
    async with updating(node, log) as updater:
        await until(lambda: len(log.resumed) == 1)
        await hand_over(updater, records(0, 1, 2))
        await until(lambda: updater.status()[0].state is PartitionState.SERVING)
        log.partitions = 4
        await asyncio.sleep(0)
        assert updater.added_partitions == 0
        log.partitions = 6
        await until(lambda: updater.status()[0].state is PartitionState.PAUSED)
        (status,) = updater.status()
        assert "2 partitions were added to the actions topic by 20" in status.reason
        assert "it has 6, and this data directory was built with 4" in status.reason
        assert (updater.added_partitions, log.paused, status.is_served) == (2, [PARTITION], True)
        log.end = 9
        await hand_over(updater, records(3, 4))
        await until(lambda: updater.status()[0].lag == 6)
        # An assignment changes nothing, and neither does the next alteration.
        await updater.on_revoked(frozenset({PARTITION}))
        await updater.on_assigned(frozenset({PARTITION}), log)
        await until(lambda: updater.status()[0].state is PartitionState.PAUSED)
        log.partitions = 8
        await until(lambda: "it has 8" in updater.status()[0].reason)
        await updater.drain(5)
    assert (items(node), len(log.resumed)) == ([0, 1, 2], 1)


async def test_an_empty_store_answers_no_reads() -> None:
    node, log = make_node(), FakeLog(0, 3)
    log.partitions = 5
    async with updating(node, log) as updater:
        await until(lambda: updater.status()[0].state is PartitionState.PAUSED)
        assert not updater.status()[0].is_served
        assert log.resumed == []


@pytest.mark.kafka
async def test_nodes_stop_at_once_and_stay_so_through_rebalances_and_restarts(kafka_settings: KafkaSettings) -> None:
    kafka = kafka_settings.model_copy(update={"session_timeout_ms": 6_000})
    create_topics(kafka)
    peers: dict[str, Node] = {}
    settings = UpdaterSettings(batch_max_wait_ms=5, standby_replicas=1)
    first, second = (Node(kafka, settings, address=name, peers=peers) for name in ("a:1", "b:1"))
    peers |= {"a:1": first, "b:1": second}
    published = actions(400)

    def paused(*nodes: Node) -> bool:
        states = [node.state_of() for node in nodes]
        return sorted(number for each in states for number in each) == [0, 1, 2, 3] and all(
            state is PartitionState.PAUSED for each in states for state in each.values()
        )

    async with first.running():
        async with second.running():
            await asyncio.to_thread(publish, kafka, published)
            await until(lambda: len(first.events()) == len(second.events()) == 400, WITHIN_S)
            await until(lambda: len(first.serving()) == len(second.serving()) == 2, WITHIN_S)
            await asyncio.to_thread(add_partitions, kafka, 6)
            await until(lambda: paused(first, second), 20, what="the pause")
            assert all("it has 6" in status.reason for status in first.stream.status())
            await until(
                lambda: (
                    [status.state for node in (first, second) for status in node.stream.standbys()]
                    == [StandbyState.PAUSED] * 4
                ),
                WITHIN_S,
            )
            await asyncio.to_thread(publish, kafka, actions(400, 400))
            await until(lambda: sum(each.lag for each in first.stream.status()) > 0, WITHIN_S, what="the lag")
        # The first node takes over, with the stores that it has followed.
        await until(lambda: paused(first), WITHIN_S, what="the takeover")
        assert first.directory.served == {0, 1, 2, 3}
    assert first.events() == second.events() == as_events(published)
    async with first.running():
        await until(lambda: paused(first), WITHIN_S, what="the pause after the start")
        assert first.directory.served == {0, 1, 2, 3}
        assert all(status.is_served and status.lag for status in first.stream.status())
    assert first.events() == as_events(published)
    assert sorted(first.disks) == [0, 1, 2, 3]
