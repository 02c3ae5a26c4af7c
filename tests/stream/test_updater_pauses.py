"""What stops a partition for a while, or until a restart: dead letters that are not safe, bad records, a full table."""

import asyncio
from collections.abc import Sequence

import pytest

from lifeline.core.kafka_errors import DeadLetterError
from lifeline.core.partitioner import partition_of
from lifeline.store.errors import DiskFullError, ItemLimitError
from lifeline.stream.partition import PartitionState
from lifeline.v1.action_pb2 import Action
from tests.support.records import PARTITION, FakeRecord
from tests.support.stream_harness import until
from tests.support.updater_harness import FakeLog, hand_over, items, make_node, records, updating


class Publisher:
    """Publishes dead letters: waits until `free` is set, and fails while `fails` is true."""

    def __init__(self) -> None:
        self.fails, self.letters, self.calls = True, 0, 0
        self.free = asyncio.Event()
        self.free.set()

    async def publish(self, letters: Sequence[object]) -> None:
        self.calls += bool(letters)
        await self.free.wait()
        if self.fails:
            raise DeadLetterError("not acknowledged: see to the cluster")
        self.letters += len(letters)

    async def close(self) -> None: ...


async def test_a_dead_letter_that_is_not_safe_pauses_its_partition_until_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lifeline.stream.updater._PAUSE_S", 0.01)
    node, log = make_node(bad_share_records=4, max_bad_share=0.5), FakeLog(0, 3)
    node.publisher = publisher = Publisher()
    async with updating(node, log) as updater:
        await until(lambda: len(log.resumed) == 1)
        for attempt in range(1, 5):
            await hand_over(updater, [*records(0), FakeRecord(offset=1, value=b"\xff")])
            # The batch is delivered again after each pause, and its bad record is counted once.
            await until(lambda at=attempt: len(log.resumed) == at + 1)  # type: ignore[misc]
            (status,) = updater.status()
            assert (status.state, status.applied_offset) == (PartitionState.PAUSED, -1)
            assert status.reason == "not acknowledged: see to the cluster"
        assert log.paused == [PARTITION] * 4
        publisher.fails = False
        await hand_over(updater, [*records(0), FakeRecord(offset=1, value=b"\xff"), *records(2)])
        await until(lambda: node.disks[PARTITION].applied_offset == 2)
        await until(lambda: updater.status()[0].state is PartitionState.SERVING)
    assert items(node) == [0, 2]
    assert publisher.letters == 1


async def test_a_pause_keeps_what_was_served_and_is_over_with_the_partition(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lifeline.stream.updater._PAUSE_S", 30.0)
    node, log = make_node(), FakeLog(0, 1)
    node.publisher = Publisher()
    async with updating(node, log) as updater:
        await until(lambda: len(log.resumed) == 1)
        await hand_over(updater, records(0))
        await until(lambda: updater.status()[0].is_served)
        log.end = 2
        await hand_over(updater, [FakeRecord(offset=1, value=b"\xff")])
        await until(lambda: updater.status()[0].state is PartitionState.PAUSED)
        assert node.directory.served == {PARTITION}
        assert updater.status()[0].is_served
        await updater.on_revoked(frozenset({PARTITION}))
        await updater.on_assigned(frozenset(), FakeLog())
        await until(lambda: not updater.status())


@pytest.mark.parametrize("max_bad_share", [0.1, 1.0])
async def test_nothing_behind_a_batch_that_failed_is_applied_while_a_revocation_begins(max_bad_share: float) -> None:
    node, log = make_node(batch_max_records=1, bad_share_records=1, max_bad_share=max_bad_share), FakeLog(0, 2)
    node.publisher = Publisher()
    async with updating(node, log) as updater:
        await until(lambda: len(log.resumed) == 1)
        # The transport has seen the revocation, but not called `on_revoked` yet.
        log.gone = True
        await updater.on_records(PARTITION, [FakeRecord(offset=0, value=b"\xff"), *records(1)])
        await until(lambda: updater.status()[0].state is PartitionState.REVOKED)
        await updater.drain(10)
    assert items(node) == []


async def test_no_other_partition_waits_for_a_dead_letter() -> None:
    name = next(name for name in (f"bob-{at}" for at in range(99)) if partition_of(name.encode(), 4) != PARTITION)
    other = partition_of(name.encode(), 4)
    node, log = make_node(), FakeLog(0, 1)
    node.publisher = publisher = Publisher()
    publisher.free.clear()
    publisher.fails = False
    async with updating(node, log) as updater:
        await updater.on_assigned(frozenset({PARTITION, other}), log)
        await until(lambda: {number for number, _ in log.resumed} == {PARTITION, other})
        await until(lambda: all(status.state is not PartitionState.ASSIGNED for status in updater.status()))
        await hand_over(updater, [FakeRecord(offset=0, value=b"\xff")])
        await until(lambda: publisher.calls == 1)
        value = Action(user_id=name, item_id=1, timestamp_ms=5, action_type=1).SerializeToString()
        await updater.on_records(other, [FakeRecord(offset=0, key=name.encode(), partition=other, value=value)])
        await until(lambda: node.disks[other].applied_offset == 0)
        assert node.disks[PARTITION].applied_offset == -1
        publisher.free.set()
        await updater.drain(10)
        assert node.disks[PARTITION].applied_offset == 0


async def test_close_returns_when_the_publication_of_dead_letters_has_not_begun() -> None:
    node, log = make_node(), FakeLog(0, 1)
    node.publisher = publisher = Publisher()
    async with updating(node, log) as updater:
        await until(lambda: len(log.resumed) == 1)
        before = asyncio.all_tasks()
        await updater.on_records(PARTITION, [FakeRecord(offset=0, value=b"\xff")])
        while asyncio.all_tasks() <= before:  # noqa: ASYNC110 - the very next step of the loop counts
            await asyncio.sleep(0)
        # The publishing task exists, but has not run yet.
        assert publisher.calls == 0
        async with asyncio.timeout(10):
            await updater.close()
    assert publisher.calls == 0
    assert not node.disks[PARTITION].open


async def test_too_many_bad_records_stop_the_partition_before_they_are_dead_letters() -> None:
    node, log = make_node(bad_share_records=10, max_bad_share=0.5), FakeLog(0, 30)
    bad = [FakeRecord(offset=offset, value=b"\xff") for offset in range(8, 20)]
    async with updating(node, log) as updater:
        await until(lambda: log.resumed == [(PARTITION, 0)])
        await hand_over(updater, records(*range(8)))
        await until(lambda: node.disks[PARTITION].applied_offset == 7)
        await hand_over(updater, bad)
        await until(lambda: updater.status()[0].state is PartitionState.REFUSING)
        (status,) = updater.status()
        assert "12 of the last 12 records are bad (now 12 undecodable; offset 8:" in status.reason
        assert status.reason.endswith("restart the node")
        assert (status.dead_letters, log.paused, node.directory.served) == ({}, [PARTITION], set())
        # No record is skipped: the next owner of the partition starts at the first record of the refused batch.
        await hand_over(updater, records(20))
        again = FakeLog(0, 30)
        await updater.on_revoked(frozenset({PARTITION}))
        await updater.on_assigned(frozenset({PARTITION}), again)
        await until(lambda: again.resumed == [(PARTITION, 8)])
        assert node.disks[PARTITION].applied_offset == 7


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ItemLimitError(PARTITION, 10, 5, 12), "10 item ids of 12 (store.max_items)"),
        (
            DiskFullError("the next records", "/data/partition-00003", "No space"),
            "(No space): free 64 MiB or more on the disk",
        ),
    ],
)
async def test_a_store_without_room_pauses_its_partition_and_is_read_on(
    monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
) -> None:
    monkeypatch.setattr("lifeline.stream.updater._PAUSE_S", 0.01)
    node, log = make_node(batch_max_records=5), FakeLog(0, 5)
    node.publisher = publisher = Publisher()
    publisher.fails = False
    store = node.disks[PARTITION]

    def refuse() -> None:
        if store.applied_offset == 4:
            raise error

    store.before_apply = refuse
    async with updating(node, log) as updater:
        await until(lambda: log.resumed == [(PARTITION, 0)])
        await hand_over(updater, records(*range(5)))
        await until(lambda: updater.status()[0].state is PartitionState.SERVING)
        log.end = 12
        for attempt in range(1, 4):
            await hand_over(updater, [FakeRecord(offset=5, value=b"\xff"), *records(*range(6, 12))])
            await until(lambda at=attempt: len(log.resumed) == at + 1)  # type: ignore[misc]
            (status,) = updater.status()
            assert status.state is PartitionState.PAUSED
            assert reason in status.reason
            assert (store.applied_offset, node.directory.served) == (4, {PARTITION})
        store.before_apply = lambda: None
        await hand_over(updater, [FakeRecord(offset=5, value=b"\xff"), *records(*range(6, 12))])
        await until(lambda: updater.status()[0].state is PartitionState.SERVING)
        # The dead letter before the pause was acknowledged, so it was published once.
        assert (items(node), publisher.letters) == ([0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11], 1)
