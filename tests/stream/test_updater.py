"""The updater alone: the order of offsets, batches, lag, commits, and the bound of its intake."""

import asyncio
from collections.abc import Sequence

import pytest

from lifeline.stream.partition import PartitionState
from lifeline.v1.action_pb2 import Action
from tests.support.records import PARTITION, FakeRecord
from tests.support.stream_harness import until
from tests.support.updater_harness import FakeLog, hand_over, items, make_node, records, updating


async def test_records_at_or_below_the_applied_offset_are_passed_over() -> None:
    node, log = make_node(applied=9), FakeLog(0, 20)
    async with updating(node, log) as updater:
        await until(lambda: log.resumed == [(PARTITION, 10)])
        await hand_over(updater, records(*range(10)))
        await hand_over(updater, records(*range(5, 15)))
        await hand_over(updater, records(*range(12, 20)))
        await until(lambda: node.disks[PARTITION].applied_offset == 19)
    assert items(node) == list(range(10, 20))


async def test_a_partition_that_left_is_told_once_it_no_longer_counts() -> None:
    node, log = make_node(), FakeLog(0, 0)
    async with updating(node, log) as updater:
        await until(lambda: updater.status()[0].state is PartitionState.SERVING)
        log.gone = True
        await updater.on_revoked(frozenset({PARTITION}))
        await updater.on_assigned(frozenset(), FakeLog())
        await until(lambda: node.closed == [PARTITION])
        assert updater.status() == []


async def test_a_gap_is_believed_once_the_log_has_shown_it_twice() -> None:
    node, log = make_node(), FakeLog(0, 30)
    async with updating(node, log) as updater:
        await until(lambda: len(log.resumed) == 1)
        await hand_over(updater, records(0, 1, 2))
        await hand_over(updater, records(7, 8))
        assert log.resumed[-1] == (PARTITION, 3)
        await hand_over(updater, records(5, 6, 7, 8))
        assert log.resumed[2:] == [(PARTITION, 3)]
        await hand_over(updater, records(5, 6, 7, 8))
        await until(lambda: node.disks[PARTITION].applied_offset == 8)
    assert items(node) == [0, 1, 2, 5, 6, 7, 8]


@pytest.mark.parametrize(("start", "end", "why"), [(4, 30, "the log starts at 4"), (0, 2, "the log ends at 2")])
async def test_a_log_that_moved_on_or_was_made_anew_is_refused(start: int, end: int, why: str) -> None:
    node, log = make_node(), FakeLog(0, 30)
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
    assert items(node) == [0, 1, 2]


async def test_many_small_hand_overs_become_few_writes_and_the_order_stays() -> None:
    node, log = make_node(batch_max_wait_ms=50), FakeLog(0, 1_000)
    async with updating(node, log) as updater:
        await until(lambda: len(log.resumed) == 1)
        for offset in range(1_000):
            await hand_over(updater, records(offset))
        await until(lambda: node.disks[PARTITION].applied_offset == 999)
        (status,) = updater.status()
        assert (status.records, status.events, status.lag) == (1_000, 1_000, 0)
        assert status.batches < 20
        assert status.state is PartitionState.SERVING
    assert items(node) == list(range(1_000))


async def test_lag_that_nothing_comes_for_is_looked_into_before_it_is_taken_for_control_records(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    node, log = make_node(), FakeLog(0, 5)
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
    assert items(node) == [0, 1, 2, 5]
    assert len(log.resumed) == 3


async def test_a_batch_has_at_most_so_many_records() -> None:
    node, log = make_node(batch_max_records=100), FakeLog(0, 1_000)
    async with updating(node, log) as updater:
        await until(lambda: len(log.resumed) == 1)
        await hand_over(updater, records(*range(1_000)))
        assert not updater.intake.has_room()
        await until(lambda: node.disks[PARTITION].applied_offset == 999)
        assert updater.intake.has_room()
        assert updater.status()[0].batches == 10


async def test_the_commit_follows_the_store_and_is_made_once() -> None:
    node, log = make_node(applied=4), FakeLog(0, 7)
    async with updating(node, log) as updater:
        await until(lambda: len(log.resumed) == 1)
        await hand_over(updater, records(5, 6))
        await updater.drain(10)
        await updater.commit()
    assert log.committed == [{PARTITION: 7}]


async def test_a_new_store_starts_where_the_log_does() -> None:
    node, log = make_node(), FakeLog(500, 502)
    async with updating(node, log) as updater:
        await until(lambda: log.resumed == [(PARTITION, 500)])
        await hand_over(updater, records(500, 501))
        await until(lambda: updater.status()[0].state is PartitionState.SERVING)
    assert items(node) == [500, 501]


async def test_a_cluster_that_is_away_is_asked_again_and_is_no_failure() -> None:
    node, log = make_node(), FakeLog(0, 9)
    log.away = True
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


async def test_a_commit_without_an_answer_holds_neither_watch_nor_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    node, log = make_node(commit_interval_ms=100, stall_after_ms=1_000), FakeLog(0, 9)
    async with updating(node, log) as updater:
        await until(lambda: len(log.resumed) == 1)
        log.away = True
        await hand_over(updater, records(0))
        await until(lambda: log.commits_started == 1)
        # Lag without a connection is no stall, however long it lasts.
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
        async with asyncio.timeout(5):
            await updater.drain(0.2)


async def test_few_large_records_hold_the_fetch_back_and_make_small_batches() -> None:
    node, log = make_node(max_waiting_mib=4, batch_max_wait_ms=60_000), FakeLog(0, 8)
    async with updating(node, log) as updater:
        await until(lambda: len(log.resumed) == 1)
        await updater.on_records(PARTITION, [FakeRecord(offset=0, key=b"ann", value=None)])
        assert updater.intake.has_room()
        updater.intake.add(0, 4 << 20)
        assert not updater.intake.has_room()
        updater.intake.add(0, -(4 << 20))
        assert updater.intake.has_room()
        huge = [
            FakeRecord(offset=at, key=b"ann", value=Action(user_id="ann", event_id="x" * (1 << 20)).SerializeToString())
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
