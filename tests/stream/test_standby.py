import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any

import pytest
from kafka import KafkaProducer

from lifeline.core.kafka_settings import KafkaSettings
from lifeline.store.errors import DiskFullError, ItemLimitError
from lifeline.stream.dead_letters import DeadLetterPublisher
from lifeline.stream.decode import DeadLetter
from lifeline.stream.placement import LocalPartition
from lifeline.stream.settings import UpdaterSettings
from lifeline.stream.standby_status import StandbyState, StandbyStatus
from tests.support.action_topics import actions, as_events, delete_before, publish
from tests.support.stream_harness import Node, until

pytestmark = pytest.mark.kafka
WITHIN_S = 90.0


class SlowPublisher:
    """Publishes dead letters once it may."""

    def __init__(self, kafka: KafkaSettings, settings: UpdaterSettings) -> None:
        self.may = asyncio.Event()
        self._real = DeadLetterPublisher(kafka, settings)

    async def publish(self, letters: Sequence[DeadLetter]) -> None:
        await self.may.wait()
        await self._real.publish(letters)

    async def close(self) -> None:
        await self._real.close()


def make_nodes(kafka: KafkaSettings, *names: str, **settings: Any) -> list[Node]:
    peers: dict[str, Node] = {}
    updater = UpdaterSettings(**({"batch_max_wait_ms": 5, "standby_replicas": 1, "commit_interval_ms": 200} | settings))
    for name in names:
        peers[name] = Node(kafka, updater, address=name, peers=peers)
    return list(peers.values())


def followed(node: Node) -> dict[int, StandbyStatus]:
    return {status.partition: status for status in node.stream.standbys()}


def applied(node: Node) -> dict[int, int]:
    return {status.partition: status.applied_offset for status in (*node.stream.status(), *node.stream.standbys())}


async def settled(*nodes: Node, events: int = 0) -> None:
    """Wait until each partition is served by one node, and followed by another up to the same place.

    Each node holds `events` then: without them nodes that have not heard of new records yet would count as well.
    """

    def holds() -> bool:
        serving = [number for node in nodes for number in node.serving()]
        ahead = {
            number: offset for node in nodes for number, offset in applied(node).items() if number in node.serving()
        }
        return sorted(serving) == [0, 1, 2, 3] and all(
            len(node.serving()) + len(followed(node)) == 4
            and applied(node) == ahead
            and len(node.events()) == events
            and node.serving()
            for node in nodes
        )

    await until(holds, WITHIN_S, what="every partition served once and followed once")


async def test_a_standby_keeps_up_and_takes_over_with_its_store_open(kafka: KafkaSettings) -> None:
    first, second = make_nodes(kafka, "a:1", "b:1")
    published = actions(4_000)
    async with second.running():
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(first.running())
            await settled(first, second)
            await asyncio.to_thread(publish, kafka, published)
            await settled(first, second, events=len(published))
            owned = first.serving()
            assert {status.state for status in followed(second).values()} == {StandbyState.FOLLOWING}
            assert set(followed(second)) == owned
            assert second.placement.owners == first.placement.owners
            assert {number for number, owner in second.placement.owners.items() if owner == "a:1"} == owned
            assert second.standby.local_partitions() == {
                number: LocalPartition(store.applied_offset, owned=False)
                for number, store in second.disks.items()
                if number in owned
            }
            opened = list(second.opened)
        await until(lambda: second.serving() == {0, 1, 2, 3}, WITHIN_S, what="the takeover")
        assert second.opened == opened
        assert second.stream.standbys() == []
        await asyncio.to_thread(publish, kafka, actions(1_000, 4_000))
        await until(lambda: len(second.events()) == 5_000, WITHIN_S)
    assert not any(store.open for node in (first, second) for store in node.disks.values())
    assert second.events() == as_events(actions(5_000))
    assert first.events() == as_events(published)


async def test_who_comes_back_gets_from_its_standby_what_it_had_followed(kafka: KafkaSettings) -> None:
    """A partition that goes from owner to standby and back is in one place at a time, and its store is right."""
    nodes = make_nodes(kafka, "a:1", "b:1", "c:1")
    published = actions(3_000)
    async with AsyncExitStack() as stack:
        for number, node in enumerate(nodes):
            await stack.enter_async_context(node.running())
            await asyncio.to_thread(publish, kafka, published[number * 1_000 : (number + 1) * 1_000])
        await until(
            lambda: (
                sorted(number for node in nodes for number in node.serving()) == [0, 1, 2, 3]
                and sorted(number for node in nodes for number in followed(node)) == [0, 1, 2, 3]
                and not any(status.lag for node in nodes for status in (*node.stream.status(), *node.stream.standbys()))
            ),
            WITHIN_S,
            what="three nodes to settle",
        )
        held = [(number, store) for node in nodes for number, store in node.disks.items() if store.open]
        assert sorted(number for number, _ in held) == sorted([0, 1, 2, 3] * 2)
        for number, store in held:
            other = next(each for at, each in held if at == number and each is not store)
            await until(lambda a=store, b=other: a.applied_offset == b.applied_offset, WITHIN_S)  # type: ignore[misc]
            assert store.events == other.events


async def test_a_standby_waits_for_the_dead_letter_of_a_bad_record(kafka: KafkaSettings) -> None:
    first, second = make_nodes(kafka, "a:1", "b:1")
    first.publisher, second.publisher = (SlowPublisher(kafka, first.updater) for _ in range(2))

    def publish_bad() -> None:
        producer = KafkaProducer(bootstrap_servers=kafka.bootstrap_servers)
        for number in range(4):
            producer.send(kafka.actions_topic, key=b"ann", value=b"no action", partition=number)
        producer.flush()
        producer.close()

    async with first.running(), second.running():
        await settled(first, second)
        await asyncio.to_thread(publish, kafka, actions(400))
        await settled(first, second, events=400)
        before = applied(first)
        await asyncio.to_thread(publish_bad)
        await until(
            lambda: all(
                status.state is StandbyState.WAITING for node in (first, second) for status in followed(node).values()
            ),
            WITHIN_S,
            what="the standbys to wait",
        )
        assert applied(first) == applied(second) == before
        first.publisher.may.set()
        second.publisher.may.set()
        after = {number: offset + 1 for number, offset in before.items()}
        await until(lambda: applied(first) == applied(second) == after, WITHIN_S, what="all to pass the bad record")
        await until(lambda: {status.state for status in followed(first).values()} == {StandbyState.FOLLOWING}, WITHIN_S)
    assert first.events() == second.events() == as_events(actions(400))


async def test_a_standby_whose_state_differs_says_so_and_is_not_offered(
    kafka: KafkaSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lifeline.stream.standby._COMPARE_S", 0.1)
    first, second = make_nodes(kafka, "a:1", "b:1", fingerprint_every=50)
    async with first.running(), second.running():
        await settled(first, second)
        await asyncio.to_thread(publish, kafka, actions(1_000))
        await settled(first, second, events=1_000)
        damaged, *others = followed(second)
        second.disks[damaged].skew = 1
        await until(lambda: followed(second)[damaged].state is StandbyState.DIVERGED, WITHIN_S, what="the alarm")
        assert "a:1" in followed(second)[damaged].reason
        assert second.standby.mismatches == 1
        assert set(second.standby.local_partitions()) == set(others)
        assert second.standby.unusable_stores() == {damaged}
        stands = followed(second)[damaged].applied_offset
        await asyncio.to_thread(publish, kafka, actions(1_000, 1_000))
        await until(lambda: len(first.serving()) == 2 and all(not s.lag for s in first.stream.status()), WITHIN_S)
        assert followed(second)[damaged].applied_offset == stands
        assert all(followed(second)[number].state is StandbyState.FOLLOWING for number in others)


async def test_a_standby_that_the_log_has_overtaken_refuses(kafka: KafkaSettings) -> None:
    first, second = make_nodes(kafka, "a:1", "b:1")
    async with first.running():
        async with second.running():
            await settled(first, second)
            await asyncio.to_thread(publish, kafka, actions(400))
            await settled(first, second, events=400)
        await until(lambda: first.serving() == {0, 1, 2, 3}, WITHIN_S)
        await asyncio.to_thread(publish, kafka, actions(4_000, 400))
        await until(lambda: len(first.events()) == 4_400, WITHIN_S)
        for number, store in first.disks.items():
            await asyncio.to_thread(delete_before, kafka, number, store.applied_offset)
        async with second.running():
            await until(
                lambda: {status.state for status in followed(second).values()} == {StandbyState.REFUSING},
                WITHIN_S,
                what="the standbys to refuse",
            )
            assert all("set the directory" in status.reason for status in followed(second).values())
            assert second.standby.local_partitions() == {}


async def test_a_standby_without_room_for_new_items_refuses_and_its_node_goes_on(kafka: KafkaSettings) -> None:
    first, second = make_nodes(kafka, "a:1", "b:1")

    def refuse() -> None:
        raise ItemLimitError(0, 10, 5, 12)

    async with first.running(), second.running():
        await settled(first, second)
        for number in followed(second):
            second.disks[number].before_apply = refuse
        await asyncio.to_thread(publish, kafka, actions(400))
        await until(
            lambda: {status.state for status in followed(second).values()} == {StandbyState.REFUSING},
            WITHIN_S,
            what="the standbys to refuse",
        )
        assert all("store.max_items" in status.reason for status in followed(second).values())
        assert second.standby.local_partitions() == {}
        await until(lambda: len(first.events()) + len(second.events()) >= 400, WITHIN_S)
        assert len(second.serving()) == 4 - len(followed(second))


async def test_a_standby_with_a_full_disk_waits_and_goes_on_once_there_is_room(
    kafka: KafkaSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lifeline.stream.standby._FULL_DISK_S", 0.1)
    first, second = make_nodes(kafka, "a:1", "b:1")

    def refuse() -> None:
        raise DiskFullError("the next records", "/data/partition-00000", "No space left on device")

    async with first.running(), second.running():
        await settled(first, second)
        for number in followed(second):
            second.disks[number].before_apply = refuse
        await asyncio.to_thread(publish, kafka, actions(400))
        await until(
            lambda: {status.state for status in followed(second).values()} == {StandbyState.WAITING},
            WITHIN_S,
            what="the standbys to wait",
        )
        assert all("free 64 MiB or more" in status.reason for status in followed(second).values())
        for number in followed(second):
            second.disks[number].before_apply = lambda: None
        await until(
            lambda: all(
                (status.state, status.reason, status.applied_offset)
                == (StandbyState.FOLLOWING, "", first.disks[number].applied_offset)
                for number, status in followed(second).items()
            ),
            WITHIN_S,
            what="the standbys to follow",
        )


async def test_a_standby_that_began_where_the_log_was_trimmed_tells_what_it_lacks(
    kafka: KafkaSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lifeline.stream.standby._COMPARE_S", 0.1)
    first, second = make_nodes(kafka, "a:1", "b:1")
    async with first.running():
        await until(lambda: first.serving() == {0, 1, 2, 3}, WITHIN_S)
        await asyncio.to_thread(publish, kafka, actions(400))
        await until(lambda: len(first.events()) == 400, WITHIN_S)
        for number, store in first.disks.items():
            await asyncio.to_thread(delete_before, kafka, number, store.applied_offset)
        async with second.running():
            await until(
                lambda: {status.state for status in followed(second).values()} == {StandbyState.DIVERGED},
                WITHIN_S,
                what="the standbys to see that they lack what was trimmed",
            )
            for number, status in followed(second).items():
                assert f"before offset {first.disks[number].applied_offset}" in status.reason
                assert "restore a snapshot" in status.reason
            assert second.standby.local_partitions() == {}
