import asyncio
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.structs import OffsetAndMetadata

from lifeline.core.kafka_errors import ClusterUnreachableError, TransportError
from lifeline.core.kafka_settings import KafkaSettings
from lifeline.core.partitioner import partition_of
from lifeline.core.vocabulary import Vocabulary
from lifeline.producer.producer import LifelineProducer
from lifeline.rpc.directory import PartitionDirectory
from lifeline.store.embeddings import EmbeddingTable
from lifeline.store.memory import SharedMemory
from lifeline.store.partition import PartitionStore
from lifeline.store.settings import StoreSettings
from lifeline.stream.action_stream import ActionStream
from lifeline.stream.dead_letters import DeadLetterPublisher
from lifeline.stream.decode import DeadLetterReason, Rules
from lifeline.stream.partition import PartitionState
from lifeline.stream.settings import UpdaterSettings
from lifeline.stream.stores import StoreAccess
from lifeline.stream.updater import Updater
from lifeline.v1.action_pb2 import Action
from tests.support.action_topics import actions, as_events, delete_before, publish
from tests.support.stream_harness import Node, RecordingStore, caught_up, until

pytestmark = pytest.mark.kafka


def committed(kafka: KafkaSettings) -> dict[int, int]:
    admin = KafkaAdminClient(bootstrap_servers=kafka.bootstrap_servers)
    try:
        offsets = admin.list_group_offsets({kafka.group_id: None})[kafka.group_id]
        return {tp.partition: meta.offset for tp, meta in offsets.items()}
    finally:
        admin.close()


def held_by(gate: threading.Event) -> None:
    gate.wait(30)


async def test_every_action_is_applied_once_and_a_restart_goes_on_behind_the_store(kafka: KafkaSettings) -> None:
    first, second = actions(5_000), actions(3_000, 5_000)
    node = Node(kafka)

    async def run_until(total: int) -> None:
        async with node.running():
            await caught_up(node, total)
            assert node.directory.served == {0, 1, 2, 3}
            status = node.stream.status()
            assert sum(each.lag for each in status) == 0
        assert node.directory.served == set()
        assert not any(store.open for store in node.disks.values())

    publish(kafka, first)
    await run_until(5_000)
    assert committed(kafka) == {number: store.applied_offset + 1 for number, store in node.disks.items()}
    publish(kafka, second)
    await run_until(8_000)
    assert node.events() == as_events(first + second)
    for number in range(4):
        seen = [state for partition, state in node.states if partition == number]
        assert seen[:4] == [
            PartitionState.ASSIGNED,
            PartitionState.RESTORING,
            PartitionState.CATCHING_UP,
            PartitionState.SERVING,
        ]
        assert seen[-1] is PartitionState.REVOKED


async def test_the_position_is_the_stores_whatever_the_group_committed(kafka: KafkaSettings) -> None:
    publish(kafka, actions(2_000))
    partitions = [TopicPartition(kafka.actions_topic, number) for number in range(4)]
    consumer = KafkaConsumer(
        bootstrap_servers=kafka.bootstrap_servers, group_id=kafka.group_id, enable_auto_commit=False
    )
    consumer.assign(partitions)
    ends = consumer.end_offsets(partitions)
    consumer.commit({tp: OffsetAndMetadata(ends[tp] - (tp.partition % 2) * 7, "", -1) for tp in partitions})
    consumer.close()
    node = Node(kafka)
    node.disks[3] = RecordingStore(3, applied_offset=99)
    async with node.running():
        await until(lambda: len(node.serving()) == 4)
    expected = [sum(ends.values()) - ends[partitions[3]], ends[partitions[3]] - 100]
    got = [sum(len(node.disks[n].events) for n in range(3)), len(node.disks[3].events)]
    assert got == expected


async def test_bad_records_become_dead_letters_and_the_partition_goes_on(kafka: KafkaSettings) -> None:
    good = actions(200)
    raw = KafkaProducer(bootstrap_servers=kafka.bootstrap_servers, max_request_size=5 << 20)
    home = partition_of(b"user-1", 4)
    publish(kafka, good[:100])
    bad: dict[DeadLetterReason, tuple[bytes, int]] = {
        DeadLetterReason.UNDECODABLE: (b"\xff\xffgarbage", home),
        DeadLetterReason.MISROUTED: (good[1].SerializeToString(), (home + 1) % 4),
        DeadLetterReason.FAR_FUTURE: (
            Action(user_id="user-1", item_id=1, timestamp_ms=32_503_680_000_000, action_type=1).SerializeToString(),
            home,
        ),
        DeadLetterReason.UNKNOWN_ACTION_TYPE: (
            Action(user_id="user-1", item_id=1, timestamp_ms=5, action_type=60).SerializeToString(),
            home,
        ),
        DeadLetterReason.OVERSIZED: (b"x" * (2 << 20), home),
    }
    for value, partition in bad.values():
        raw.send(kafka.actions_topic, key=b"user-1", value=value, partition=partition)
    raw.send(
        kafka.actions_topic,
        key=b"user-1",
        value=b"\x00\x00\x00\x00\x09\x00"
        + Action(user_id="user-1", item_id=999, timestamp_ms=9, action_type=2).SerializeToString(),
        partition=home,
    )
    raw.flush()
    raw.close()
    publish(kafka, good[100:])
    node = Node(kafka)
    async with node.running():
        await caught_up(node, 201)
        counts: Counter[DeadLetterReason] = Counter()
        for status in node.stream.status():
            counts.update(status.dead_letters)
        assert counts == dict.fromkeys(bad, 1)
    assert node.events() == sorted([*as_events(good), (b"user-1", 9, 999, 2 << 8)])


async def test_a_null_value_erases_what_came_before_it(kafka: KafkaSettings) -> None:
    with LifelineProducer(kafka) as producer:
        for action in actions(97 * 3):
            producer.publish(action)
        producer.erase("user-5").result(10)
        producer.publish(Action(user_id="user-5", item_id=1, timestamp_ms=7, action_type=1))
    node = Node(kafka)
    async with node.running():
        await caught_up(node, 96 * 3 + 1)
        assert sum(each.erasures for each in node.stream.status()) == 1
    assert [event for event in node.events() if event[0] == b"user-5"] == [(b"user-5", 7, 1, 1 << 8)]


async def test_a_log_that_has_passed_the_store_makes_the_partition_refuse(kafka: KafkaSettings) -> None:
    publish(kafka, actions(2_000))
    node = Node(kafka)
    node.disks[1] = RecordingStore(1, applied_offset=10)
    node.disks[2] = RecordingStore(2, applied_offset=1_000_000)
    delete_before(kafka, 0, 50)
    delete_before(kafka, 1, 50)
    async with node.running():
        await until(lambda: len(node.serving()) == 2)
        reasons = {each.partition: each.reason for each in node.stream.status() if each.reason}
        assert node.state_of()[1] is node.state_of()[2] is PartitionState.REFUSING
        assert "the log starts at 50, and 11 to 49 were never applied" in reasons[1]
        assert "the log ends at" in reasons[2]
        assert node.directory.served == {0, 3}
    assert node.disks[1].events == node.disks[2].events == []
    assert min(len(node.disks[0].events), len(node.disks[3].events)) > 100


async def test_a_log_start_that_overtakes_a_running_partition_is_noticed(kafka: KafkaSettings) -> None:
    """Records go while they wait behind a slow write: the client resets itself, and the gap must not pass."""
    published = actions(60_000)
    gate = threading.Event()
    node = Node(kafka, UpdaterSettings(batch_max_records=200, batch_max_wait_ms=0, fetch_max_bytes=1 << 16))
    store = node.disks[0] = RecordingStore(0)
    store.before_apply = lambda: held_by(gate)
    publish(kafka, published)
    async with node.running():
        await until(lambda: any(each.lag > 5_000 for each in node.stream.status()))
        await asyncio.to_thread(delete_before, kafka, 0, 12_000)
        gate.set()
        await until(lambda: node.state_of()[0] is PartitionState.REFUSING)
        assert 0 not in node.directory.served
    assert store.applied_offset < 12_000
    assert len(store.events) == store.applied_offset + 1


async def test_two_nodes_share_the_partitions_and_each_keeps_whole_ones(kafka: KafkaSettings) -> None:
    published = actions(20_000)
    left, right = Node(kafka), Node(kafka)

    async def produce() -> None:
        def work() -> None:
            with LifelineProducer(kafka) as producer:
                for number, action in enumerate(published):
                    producer.publish(action)
                    if number % 500 == 0:
                        producer.flush()

        await asyncio.to_thread(work)

    def owned(node: Node) -> set[int]:
        return {number for number, store in node.disks.items() if store.open}

    producing = asyncio.create_task(produce())
    async with left.running():
        await until(lambda: len(left.state_of()) == 4)
        async with right.running():
            await until(lambda: len(owned(left)) == 2 and len(owned(right)) == 2, what="two each")
            assert owned(left) | owned(right) == {0, 1, 2, 3}
            await producing
            await until(lambda: sum(len(node.disks[n].events) for node in (left, right) for n in owned(node)) == 20_000)
            held = [*(left.disks[n] for n in owned(left)), *(right.disks[n] for n in owned(right))]
            assert sorted(event for store in held for event in store.events) == as_events(published)
            assert left.directory.served == owned(left)
        await until(lambda: len(left.serving()) == 4)
        assert left.events() == as_events(published)


async def test_a_node_that_leaves_hides_its_stores_and_others_get_the_partitions_before_it_closes_them(
    kafka: KafkaSettings,
) -> None:
    published = actions(2_000)
    publish(kafka, published)
    leaver, heir = Node(kafka), Node(kafka)
    async with heir.running(), leaver.running():
        await until(lambda: len(leaver.serving()) == len(heir.serving()) == 2, what="two each")
        kept = leaver.directory.served
        assert len(kept) == 2
        await leaver.stream.leave(15)
        assert leaver.directory.served == set()
        await until(lambda: heir.serving() == {0, 1, 2, 3}, what="the heir serves all")
        assert {number for number, store in leaver.disks.items() if store.open} >= kept
        assert committed(kafka) == {number: heir.disks[number].applied_offset + 1 for number in range(4)}
        publish(kafka, actions(100, 2_000))
        await until(lambda: len(heir.events()) == 2_100)
        # It takes nothing more, so that an answer of its is not a mixture.
        assert sum(store.applied_offset + 1 for store in leaver.disks.values()) <= 2_000
    assert not any(store.open for node in (leaver, heir) for store in node.disks.values())


async def test_a_failing_write_ends_the_stream_and_nothing_is_left_open(kafka: KafkaSettings) -> None:
    publish(kafka, actions(1_000))
    node = Node(kafka)
    store = node.disks[2] = RecordingStore(2)

    def fail() -> None:
        raise OSError(28, "No space left on device")

    store.before_apply = fail
    async with node.running():
        with pytest.raises(OSError, match="No space left"):
            async with asyncio.timeout(20):
                await node.stream.wait()
    assert not any(each.open for each in node.disks.values())
    assert store.events == []


async def test_a_store_that_cannot_be_opened_ends_the_stream(kafka: KafkaSettings) -> None:
    def fail(partition: int) -> None:
        if partition == 3:
            raise ValueError("corrupt")

    node = Node(kafka, before_open=fail)
    async with node.running():
        with pytest.raises(ValueError, match="corrupt"):
            async with asyncio.timeout(20):
                await node.stream.wait()
    assert not any(each.open for each in node.disks.values())


async def test_a_crash_of_the_transport_ends_the_stream(kafka: KafkaSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    node = Node(kafka)
    publish(kafka, actions(10))
    updater = node.make_updater()

    async def fail(*_: Any) -> None:
        raise RuntimeError("the seam broke")

    monkeypatch.setattr(updater, "on_records", fail)
    monkeypatch.setattr(node, "make_updater", lambda: updater)
    async with node.running():
        with pytest.raises(TransportError, match="the seam broke"):
            async with asyncio.timeout(20):
                await node.stream.wait()
    assert not any(each.open for each in node.disks.values())


async def test_slow_writes_hold_the_fetch_back_and_a_stall_is_told(kafka: KafkaSettings) -> None:
    publish(kafka, actions(30_000))
    gate = threading.Event()
    node = Node(kafka, UpdaterSettings(batch_max_records=500, batch_max_wait_ms=0, stall_after_ms=1_000))
    for number in range(4):
        node.disks[number] = RecordingStore(number)
        node.disks[number].before_apply = lambda: held_by(gate)
    async with node.running():
        await until(lambda: PartitionState.STALLED in node.state_of().values())
        updater = node.stream._updater
        assert updater.intake.records <= updater.intake.max_records + 500
        gate.set()
        await caught_up(node, 30_000)
    assert all(state is not PartitionState.REFUSING for _, state in node.states)


async def test_a_graceful_stop_applies_what_waits(kafka: KafkaSettings) -> None:
    publish(kafka, actions(4_000))
    node = Node(kafka, UpdaterSettings(batch_max_records=1 << 20, batch_max_wait_ms=60_000))
    async with node.running():
        updater = node.stream._updater
        await until(lambda: updater.intake.records == 4_000)
        assert node.events() == []
    assert node.events() == as_events(actions(4_000))
    assert sum(committed(kafka).values()) == 4_000


async def test_a_slow_restore_holds_no_other_partition_up(kafka: KafkaSettings) -> None:
    publish(kafka, actions(1_000))
    gate = threading.Event()
    node = Node(kafka, before_open=lambda number: held_by(gate) if number == 1 else None)
    async with node.running():
        await until(lambda: node.serving() == {0, 2, 3})
        assert node.state_of()[1] is PartitionState.RESTORING
        gate.set()
        await caught_up(node, 1_000)


async def test_a_stop_during_a_restore_leaves_no_store_open(kafka: KafkaSettings) -> None:
    begun, gate = threading.Event(), threading.Event()

    def slow(number: int) -> None:
        if number == 1:
            begun.set()
            gate.wait(30)

    node = Node(kafka, before_open=slow)
    async with node.running():
        await asyncio.to_thread(begun.wait, 20)
        asyncio.get_running_loop().call_later(0.5, gate.set)
    assert not any(each.open for each in node.disks.values())


async def test_a_cluster_that_is_not_there() -> None:
    node = Node(KafkaSettings(bootstrap_servers="127.0.0.1:1", connect_timeout_ms=200))
    with pytest.raises(ClusterUnreachableError):
        async with node.running():
            pytest.fail("it started")


async def test_the_real_store_comes_out_the_same_through_restarts_and_in_one_pass(
    kafka: KafkaSettings, tmp_path: Path
) -> None:
    memory = SharedMemory(StoreSettings())
    updater_settings = UpdaterSettings(batch_max_records=500, batch_max_wait_ms=0)
    rules = Rules.of(Vocabulary(), 4, updater_settings)

    def opener(home: Path) -> Callable[[int], PartitionStore]:
        return lambda number: PartitionStore.open(
            home / str(number), partition=number, settings=StoreSettings(), memory=memory
        )

    async def follow(home: Path, group: str, total: int | None) -> dict[int, tuple[int, int]]:
        settings = kafka.model_copy(update={"group_id": group})
        embeddings = EmbeddingTable.open(home / "embeddings")
        directory = PartitionDirectory(lambda key: partition_of(key, 4), embeddings)
        updater: Updater[PartitionStore] = Updater(
            updater_settings,
            rules,
            StoreAccess(opener(home), PartitionStore.close),
            directory=directory,
            dead_letters=DeadLetterPublisher(settings, updater_settings),
        )
        stream = ActionStream(settings, updater_settings, updater)
        try:
            await stream.start()
            if total is None:
                await until(lambda: sum(each.events for each in stream.status()) > 1_000)
                return {}
            await until(
                lambda: (
                    len(stream.status()) == 4
                    and all(each.state is PartitionState.SERVING for each in stream.status())
                    and sum(each.applied_offset + 1 for each in stream.status()) == total
                )
            )
            return {store.partition: (store.applied_offset, store.fingerprint) for store in directory}
        finally:
            await stream.stop(15)
            embeddings.close()

    publish(kafka, actions(9_000))
    publish(kafka, actions(3_000))
    await follow(tmp_path / "a", "a", None)
    await follow(tmp_path / "a", "a", None)
    restarted = await follow(tmp_path / "a", "a", 12_000)
    assert restarted == await follow(tmp_path / "b", "b", 12_000)
    assert len({fingerprint for _, fingerprint in restarted.values()}) == 4
