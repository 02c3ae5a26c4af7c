"""The updater alone, with a log that does as it is told."""

import asyncio
import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiokafka.errors import KafkaTimeoutError

from lifeline.core.kafka_errors import DeadLetterError
from lifeline.core.kafka_settings import KafkaSettings
from lifeline.core.partitioner import partition_of
from lifeline.store.errors import ItemLimitError
from lifeline.stream.log import Bounds, PartitionGoneError
from lifeline.stream.partition import PartitionState
from lifeline.stream.settings import UpdaterSettings
from lifeline.stream.updater import Updater
from lifeline.v1.action_pb2 import Action
from tests.support.records import FakeRecord
from tests.support.stream_harness import Node, RecordingStore, until

PARTITION = partition_of(b"ann", 4)


class FakeLog:
    """A `LogReader` of one assignment."""

    def __init__(self, start: int = 0, end: int = 0) -> None:
        self.start, self.end = start, end
        self.gone = False
        self.resumed: list[tuple[int, int]] = []
        self.paused: list[int] = []
        self.committed: list[Mapping[int, int]] = []
        self.away = False
        self.commits_started = 0

    def _check(self) -> None:
        if self.gone:
            raise PartitionGoneError("revoked: nothing to do")

    async def bounds(self, partition: int) -> Bounds:  # noqa: ARG002
        self._check()
        if self.away:
            raise KafkaTimeoutError
        return Bounds(self.start, self.end)

    async def resume_at(self, partition: int, offset: int) -> None:
        self._check()
        self.resumed.append((partition, offset))

    def pause(self, partition: int) -> None:
        self._check()
        self.paused.append(partition)

    def known_end(self, partition: int) -> int | None:  # noqa: ARG002
        return None if self.gone else self.end

    def position(self, partition: int) -> int | None:  # noqa: ARG002
        return None

    def connected(self, partition: int) -> bool:  # noqa: ARG002
        return not self.away

    async def commit(self, offsets: Mapping[int, int]) -> bool:
        self.commits_started += 1
        if self.away:
            await asyncio.Event().wait()
        self.committed.append(offsets)
        return True


def records(*offsets: int) -> list[FakeRecord]:
    return [
        FakeRecord(
            offset=offset,
            value=Action(user_id="ann", item_id=offset, timestamp_ms=5, action_type=1).SerializeToString(),
        )
        for offset in offsets
    ]


@asynccontextmanager
async def updating(node: Node, log: FakeLog) -> AsyncIterator[Updater[RecordingStore]]:
    updater = node.make_updater()
    updater.start()
    try:
        await updater.on_assigned(frozenset({PARTITION}), log)
        yield updater
    finally:
        await updater.close()


def items(node: Node) -> list[int]:
    return [item for _, _, item, _ in node.disks[PARTITION].events]


def make_node(applied: int = -1, **settings: Any) -> Node:
    node = Node(KafkaSettings(), UpdaterSettings(**({"batch_max_wait_ms": 0} | settings)))
    node.disks[PARTITION] = RecordingStore(PARTITION, applied_offset=applied)
    return node


async def hand_over(updater: Updater[RecordingStore], batch: Sequence[FakeRecord]) -> None:
    await updater.wait_for_room()
    await updater.on_records(PARTITION, batch)


def test_records_at_or_below_the_applied_offset_are_passed_over() -> None:
    node, log = make_node(applied=9), FakeLog(0, 20)

    async def run() -> None:
        async with updating(node, log) as updater:
            await until(lambda: log.resumed == [(PARTITION, 10)])
            await hand_over(updater, records(*range(10)))
            await hand_over(updater, records(*range(5, 15)))
            await hand_over(updater, records(*range(12, 20)))
            await until(lambda: node.disks[PARTITION].applied_offset == 19)

    asyncio.run(run())
    assert items(node) == list(range(10, 20))


def test_a_gap_is_believed_once_the_log_has_shown_it_twice() -> None:
    node, log = make_node(), FakeLog(0, 30)

    async def run() -> None:
        async with updating(node, log) as updater:
            await until(lambda: len(log.resumed) == 1)
            await hand_over(updater, records(0, 1, 2))
            await hand_over(updater, records(7, 8))
            assert log.resumed[-1] == (PARTITION, 3)
            await hand_over(updater, records(5, 6, 7, 8))
            assert log.resumed[2:] == [(PARTITION, 3)]
            await hand_over(updater, records(5, 6, 7, 8))
            await until(lambda: node.disks[PARTITION].applied_offset == 8)

    asyncio.run(run())
    assert items(node) == [0, 1, 2, 5, 6, 7, 8]


@pytest.mark.parametrize(("start", "end", "why"), [(4, 30, "the log starts at 4"), (0, 2, "the log ends at 2")])
def test_a_log_that_moved_on_or_was_made_anew_is_refused(start: int, end: int, why: str) -> None:
    node, log = make_node(), FakeLog(0, 30)

    async def run() -> None:
        async with updating(node, log) as updater:
            await until(lambda: len(log.resumed) == 1)
            await hand_over(updater, records(0, 1, 2))
            await until(lambda: node.disks[PARTITION].applied_offset == 2)
            log.start, log.end = start, end
            await hand_over(updater, records(4, 5) if start else records(0, 1))
            (status,) = updater.status()
            assert status.state is PartitionState.REFUSING
            assert why in status.reason
            assert log.paused == [PARTITION]
            assert node.directory.served == set()
            await hand_over(updater, records(3, 4, 5))
            await asyncio.sleep(0)
            assert updater.status()[0].state is PartitionState.REFUSING

    asyncio.run(run())
    assert items(node) == [0, 1, 2]


def test_what_was_handed_over_before_a_revocation_is_void() -> None:
    node, log = make_node(batch_max_wait_ms=60_000), FakeLog(0, 10)

    async def run() -> None:
        async with updating(node, log) as updater:
            await until(lambda: len(log.resumed) == 1)
            await hand_over(updater, records(0, 1, 2))
            log.gone = True
            await updater.on_revoked(frozenset({PARTITION}))
            await hand_over(updater, records(3, 4))
            assert updater.status()[0].state is PartitionState.REVOKED
            assert node.disks[PARTITION].open
            again = FakeLog(0, 10)
            await updater.on_assigned(frozenset({PARTITION}), again)
            await until(lambda: again.resumed == [(PARTITION, 0)])
            assert node.opened == [PARTITION]
            await updater.on_assigned(frozenset(), FakeLog())
            await until(lambda: not node.disks[PARTITION].open)
            assert updater.status() == []

    asyncio.run(run())
    assert items(node) == []


def test_a_partition_that_comes_back_while_it_is_let_go_is_open_in_the_end() -> None:
    node = make_node()

    async def run() -> None:
        async with updating(node, FakeLog(0, 10)) as updater:
            for _ in range(20):
                await updater.on_revoked(frozenset({PARTITION}))
                await updater.on_assigned(frozenset(), FakeLog())
                await asyncio.sleep(0)
                log = FakeLog(0, 10)
                await updater.on_assigned(frozenset({PARTITION}), log)
            await until(lambda: len(log.resumed) == 1)
            await until(lambda: node.disks[PARTITION].open and log.resumed[-1:] == [(PARTITION, 0)])

    asyncio.run(run())
    assert not node.disks[PARTITION].open


def test_many_small_hand_overs_become_few_writes_and_the_order_stays() -> None:
    node, log = make_node(batch_max_wait_ms=50), FakeLog(0, 1_000)

    async def run() -> None:
        async with updating(node, log) as updater:
            await until(lambda: len(log.resumed) == 1)
            for offset in range(1_000):
                await hand_over(updater, records(offset))
            await until(lambda: node.disks[PARTITION].applied_offset == 999)
            (status,) = updater.status()
            assert (status.records, status.events, status.lag) == (1_000, 1_000, 0)
            assert status.batches < 20
            assert status.state is PartitionState.SERVING

    asyncio.run(run())
    assert items(node) == list(range(1_000))


def test_lag_that_nothing_comes_for_is_looked_into_before_it_is_taken_for_control_records(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    node, log = make_node(), FakeLog(0, 5)

    async def run() -> None:
        async with updating(node, log) as updater:
            await until(lambda: len(log.resumed) == 1)
            await hand_over(updater, records(0, 1, 2))
            await until(lambda: updater.status()[0].lag == 2)
            monkeypatch.setattr(log, "position", lambda _: 5)
            await until(lambda: len(log.resumed) == 2)
            assert log.resumed[1] == (PARTITION, 3)
            assert updater.status()[0].state is PartitionState.CATCHING_UP
            await until(lambda: updater.status()[0].state is PartitionState.SERVING)
            assert updater.status()[0].lag == 0
            log.end = 6
            await hand_over(updater, records(5))
            await hand_over(updater, records(5))
            await until(lambda: node.disks[PARTITION].applied_offset == 5)

    asyncio.run(run())
    assert items(node) == [0, 1, 2, 5]
    assert len(log.resumed) == 3


def test_a_batch_has_at_most_so_many_records() -> None:
    node, log = make_node(batch_max_records=100), FakeLog(0, 1_000)

    async def run() -> None:
        async with updating(node, log) as updater:
            await until(lambda: len(log.resumed) == 1)
            await hand_over(updater, records(*range(1_000)))
            assert not updater.intake.has_room()
            await until(lambda: node.disks[PARTITION].applied_offset == 999)
            assert updater.intake.has_room()
            assert updater.status()[0].batches == 10

    asyncio.run(run())


class Publisher:
    """Takes dead letters once it is told to; the others wait, or fail."""

    def __init__(self) -> None:
        self.fails, self.letters, self.asked = True, 0, 0
        self.free = asyncio.Event()
        self.free.set()

    async def publish(self, letters: Sequence[object]) -> None:
        self.asked += bool(letters)
        await self.free.wait()
        if self.fails:
            raise DeadLetterError("not acknowledged: see to the cluster")
        self.letters += len(letters)

    async def close(self) -> None: ...


def test_a_dead_letter_that_is_not_safe_pauses_its_partition_until_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lifeline.stream.updater._PAUSE_S", 0.01)
    node, log = make_node(bad_share_records=4, max_bad_share=0.5), FakeLog(0, 3)
    node.publisher = publisher = Publisher()

    async def run() -> None:
        async with updating(node, log) as updater:
            await until(lambda: len(log.resumed) == 1)
            for attempt in range(1, 5):
                await hand_over(updater, [*records(0), FakeRecord(offset=1, value=b"\xff")])
                # What came before comes again, for as long as it takes, and never counts twice as bad.
                await until(lambda at=attempt: len(log.resumed) == at + 1)  # type: ignore[misc]
                (status,) = updater.status()
                assert (status.state, status.applied_offset) == (PartitionState.PAUSED, -1)
                assert status.reason == "not acknowledged: see to the cluster"
            assert log.paused == [PARTITION] * 4
            publisher.fails = False
            await hand_over(updater, [*records(0), FakeRecord(offset=1, value=b"\xff"), *records(2)])
            await until(lambda: node.disks[PARTITION].applied_offset == 2)
            await until(lambda: updater.status()[0].state is PartitionState.SERVING)

    asyncio.run(run())
    assert items(node) == [0, 2]
    assert publisher.letters == 1


def test_a_pause_keeps_what_was_served_and_is_over_with_the_partition(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lifeline.stream.updater._PAUSE_S", 30.0)
    node, log = make_node(), FakeLog(0, 1)
    node.publisher = Publisher()

    async def run() -> None:
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

    asyncio.run(run())


@pytest.mark.parametrize("max_bad_share", [0.1, 1.0])
def test_nothing_behind_a_batch_that_failed_is_applied_while_a_revocation_begins(max_bad_share: float) -> None:
    node, log = make_node(batch_max_records=1, bad_share_records=1, max_bad_share=max_bad_share), FakeLog(0, 2)
    node.publisher = Publisher()

    async def run() -> None:
        async with updating(node, log) as updater:
            await until(lambda: len(log.resumed) == 1)
            # The transport knows of the revocation, and has not called `on_revoked` yet.
            log.gone = True
            await updater.on_records(PARTITION, [FakeRecord(offset=0, value=b"\xff"), *records(1)])
            await until(lambda: updater.status()[0].state is PartitionState.REVOKED)
            await updater.drain(10)

    asyncio.run(run())
    assert items(node) == []


def test_no_other_partition_waits_for_a_dead_letter() -> None:
    name = next(name for name in (f"bob-{at}" for at in range(99)) if partition_of(name.encode(), 4) != PARTITION)
    other = partition_of(name.encode(), 4)
    node, log = make_node(), FakeLog(0, 1)
    node.publisher = publisher = Publisher()
    publisher.free.clear()
    publisher.fails = False

    async def run() -> None:
        async with updating(node, log) as updater:
            await updater.on_assigned(frozenset({PARTITION, other}), log)
            await until(lambda: {number for number, _ in log.resumed} == {PARTITION, other})
            await until(lambda: all(status.state is not PartitionState.ASSIGNED for status in updater.status()))
            await hand_over(updater, [FakeRecord(offset=0, value=b"\xff")])
            await until(lambda: publisher.asked == 1)
            value = Action(user_id=name, item_id=1, timestamp_ms=5, action_type=1).SerializeToString()
            await updater.on_records(other, [FakeRecord(offset=0, key=name.encode(), partition=other, value=value)])
            await until(lambda: node.disks[other].applied_offset == 0)
            assert node.disks[PARTITION].applied_offset == -1
            publisher.free.set()
            await updater.drain(10)
            assert node.disks[PARTITION].applied_offset == 0

    asyncio.run(run())


def test_close_returns_when_the_publication_of_dead_letters_has_not_begun() -> None:
    node, log = make_node(), FakeLog(0, 1)
    node.publisher = publisher = Publisher()

    async def run() -> None:
        async with updating(node, log) as updater:
            await until(lambda: len(log.resumed) == 1)
            before = asyncio.all_tasks()
            await updater.on_records(PARTITION, [FakeRecord(offset=0, value=b"\xff")])
            while asyncio.all_tasks() <= before:  # noqa: ASYNC110 - the very next step of the loop counts
                await asyncio.sleep(0)
            # The task that publishes exists, and its first step comes after this one.
            assert publisher.asked == 0
            async with asyncio.timeout(10):
                await updater.close()

    asyncio.run(run())
    assert publisher.asked == 0
    assert not node.disks[PARTITION].open


def test_the_commit_follows_the_store_and_is_made_once() -> None:
    node, log = make_node(applied=4), FakeLog(0, 7)

    async def run() -> None:
        async with updating(node, log) as updater:
            await until(lambda: len(log.resumed) == 1)
            await hand_over(updater, records(5, 6))
            await updater.drain(10)
            await updater.commit()

    asyncio.run(run())
    assert log.committed == [{PARTITION: 7}]


def test_a_new_store_starts_where_the_log_does() -> None:
    node, log = make_node(), FakeLog(500, 502)

    async def run() -> None:
        async with updating(node, log) as updater:
            await until(lambda: log.resumed == [(PARTITION, 500)])
            await hand_over(updater, records(500, 501))
            await until(lambda: updater.status()[0].state is PartitionState.SERVING)

    asyncio.run(run())
    assert items(node) == [500, 501]


def test_a_partition_that_comes_back_during_the_close_is_the_one_that_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    node, log = make_node(), FakeLog(0, 3)
    closing, gate, close = threading.Event(), threading.Event(), node.close_store

    def slow(store: RecordingStore) -> None:
        closing.set()
        gate.wait(30)
        close(store)

    monkeypatch.setattr(node, "close_store", slow)

    async def run() -> None:
        async with updating(node, first := FakeLog(0, 3)) as updater:
            await until(lambda: first.resumed == [(PARTITION, 0)])
            await updater.on_assigned(frozenset(), FakeLog())
            await until(closing.is_set)
            await updater.on_assigned(frozenset({PARTITION}), log)
            gate.set()
            await until(lambda: log.resumed == [(PARTITION, 0)])
            await hand_over(updater, records(0, 1, 2))
            await until(lambda: [each.applied_offset for each in updater.status()] == [2])

    asyncio.run(run())
    assert items(node) == [0, 1, 2]


def test_a_cluster_that_is_away_is_asked_again_and_is_no_failure() -> None:
    node, log = make_node(), FakeLog(0, 9)
    log.away = True

    async def run() -> None:
        async with updating(node, log) as updater:
            await until(lambda: "does not say what the log holds" in updater.status()[0].reason)
            assert updater.status()[0].state is PartitionState.RESTORING
            log.away = False
            await until(lambda: len(log.resumed) == 1)
            assert updater.status()[0].reason == ""
            await hand_over(updater, records(0))
            log.away = True
            gap = asyncio.create_task(hand_over(updater, records(3)))
            await until(lambda: "does not say" in updater.status()[0].reason)
            log.away = False
            await gap
            assert log.resumed[-1] == (PARTITION, 1)

    asyncio.run(run())


def test_a_commit_without_an_answer_holds_neither_watch_nor_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    node, log = make_node(commit_interval_ms=100, stall_after_ms=1_000), FakeLog(0, 9)

    async def run() -> None:
        async with updating(node, log) as updater:
            await until(lambda: len(log.resumed) == 1)
            log.away = True
            await hand_over(updater, records(0))
            await until(lambda: log.commits_started == 1)
            # Lag, and nothing that could be fetched: no stall, however long.
            held = updater._partitions[PARTITION]
            monkeypatch.setattr(held, "progress_at", held.progress_at - 1_000)
            before = held.progress_at
            await until(lambda: held.progress_at > before + 999)
            assert held.state is PartitionState.CATCHING_UP
            assert log.commits_started == 1
            log.away = False
            await until(lambda: held.state is PartitionState.STALLED)
            log.away = True
            await until(lambda: held.state is PartitionState.CATCHING_UP)
            await asyncio.wait_for(updater.drain(0.2), 5)

    asyncio.run(run())


def test_few_large_records_hold_the_fetch_back_and_make_small_batches() -> None:
    node, log = make_node(max_waiting_mib=4, batch_max_wait_ms=60_000), FakeLog(0, 8)

    async def run() -> None:
        async with updating(node, log) as updater:
            await until(lambda: len(log.resumed) == 1)
            await updater.on_records(PARTITION, [FakeRecord(offset=0, key=b"ann", value=None)])
            assert updater.intake.has_room()
            updater.intake.add(0, 4 << 20)
            assert not updater.intake.has_room()
            updater.intake.add(0, -(4 << 20))
            assert updater.intake.has_room()
            huge = [
                FakeRecord(
                    offset=at, key=b"ann", value=Action(user_id="ann", event_id="x" * (1 << 20)).SerializeToString()
                )
                for at in range(1, 5)
            ]
            published: list[int] = []

            async def keep(letters: Sequence[object]) -> None:
                published.append(len(letters))

            updater._dead_letters.publish = keep  # type: ignore[method-assign]
            await updater.on_records(PARTITION, huge)
            assert not updater.intake.has_room()
            await until(lambda: node.disks[PARTITION].applied_offset >= 3)
            assert set(published) == {1}

    asyncio.run(run())


@pytest.mark.parametrize("serve", ["caught_up", "stale"])
def test_a_store_is_served_from_when_the_settings_say_and_through_a_rebalance(serve: str) -> None:
    node, log = make_node(serve=serve), FakeLog(0, 10)

    async def run() -> None:
        async with updating(node, log) as updater:
            await until(lambda: log.resumed == [(PARTITION, 0)])
            assert node.directory.served == ({PARTITION} if serve == "stale" else set())
            await hand_over(updater, records(*range(9)))
            await until(lambda: node.disks[PARTITION].applied_offset == 8)
            assert node.directory.served == ({PARTITION} if serve == "stale" else set())
            await hand_over(updater, records(9))
            await until(lambda: node.disks[PARTITION].applied_offset == 9 and node.directory.served == {PARTITION})
            # The same partition comes back with more to catch up with: what was fresh a moment ago goes on.
            await updater.on_revoked(frozenset({PARTITION}))
            again = FakeLog(0, 20)
            await updater.on_assigned(frozenset({PARTITION}), again)
            await until(lambda: again.resumed == [(PARTITION, 10)])
            assert node.directory.served == {PARTITION}

    asyncio.run(run())
    assert node.directory.served == set()


def test_a_store_that_does_not_close_keeps_no_other_open(monkeypatch: pytest.MonkeyPatch) -> None:
    node, log = make_node(), FakeLog(0, 0)
    other = (PARTITION + 1) % 4
    close = node.close_store

    def fail(store: RecordingStore) -> None:
        close(store)
        if store.partition == min(PARTITION, other):
            raise OSError("the disk is full")

    monkeypatch.setattr(node, "close_store", fail)

    async def run() -> None:
        updater = node.make_updater()
        updater.start()
        await updater.on_assigned(frozenset({PARTITION, other}), log)
        await until(lambda: len(log.resumed) == 2)
        with pytest.raises(OSError, match="disk is full"):
            await updater.close()

    asyncio.run(run())
    assert not any(store.open for store in node.disks.values())


def test_too_many_bad_records_stop_the_partition_before_they_are_dead_letters() -> None:
    node, log = make_node(bad_share_records=10, max_bad_share=0.5), FakeLog(0, 30)
    bad = [FakeRecord(offset=offset, value=b"\xff") for offset in range(8, 20)]

    async def run() -> None:
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
            # Nothing is passed over: what comes is what was refused, whoever gets the partition next.
            await hand_over(updater, records(20))
            again = FakeLog(0, 30)
            await updater.on_revoked(frozenset({PARTITION}))
            await updater.on_assigned(frozenset({PARTITION}), again)
            await until(lambda: again.resumed == [(PARTITION, 8)])
            assert node.disks[PARTITION].applied_offset == 7

    asyncio.run(run())


def test_a_store_without_room_for_new_items_pauses_its_partition_and_is_read_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("lifeline.stream.updater._PAUSE_S", 0.01)
    node, log = make_node(batch_max_records=5), FakeLog(0, 5)
    node.publisher = publisher = Publisher()
    publisher.fails = False
    store = node.disks[PARTITION]

    def refuse() -> None:
        if store.applied_offset == 4:
            raise ItemLimitError(PARTITION, 10, 5, 12)

    async def run() -> None:
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
                assert "10 item ids of 12 (store.max_items)" in status.reason
                assert (store.applied_offset, node.directory.served) == (4, {PARTITION})
            store.before_apply = lambda: None
            await hand_over(updater, [FakeRecord(offset=5, value=b"\xff"), *records(*range(6, 12))])
            await until(lambda: updater.status()[0].state is PartitionState.SERVING)
            # The dead letter before the pause was safe: it went once.
            assert (items(node), publisher.letters) == ([0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11], 1)

    asyncio.run(run())
