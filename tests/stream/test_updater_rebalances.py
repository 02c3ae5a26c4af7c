"""Partitions that come and go while the updater runs, and its close."""

import asyncio
import threading

import pytest

from lifeline.stream.partition import PartitionState
from tests.support.records import PARTITION
from tests.support.stream_harness import RecordingStore, until
from tests.support.updater_harness import FakeLog, hand_over, items, make_node, records, updating


async def test_what_was_handed_over_before_a_revocation_is_void() -> None:
    node, log = make_node(batch_max_wait_ms=60_000), FakeLog(0, 10)
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
    assert items(node) == []


async def test_a_partition_that_comes_back_while_it_is_let_go_is_open_in_the_end() -> None:
    node = make_node()
    async with updating(node, FakeLog(0, 10)) as updater:
        for _ in range(20):
            await updater.on_revoked(frozenset({PARTITION}))
            await updater.on_assigned(frozenset(), FakeLog())
            await asyncio.sleep(0)
            log = FakeLog(0, 10)
            await updater.on_assigned(frozenset({PARTITION}), log)
        await until(lambda: len(log.resumed) == 1)
        await until(lambda: node.disks[PARTITION].open and log.resumed[-1:] == [(PARTITION, 0)])
    assert not node.disks[PARTITION].open


async def test_a_partition_that_comes_back_during_the_close_is_the_one_that_is_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    node, log = make_node(), FakeLog(0, 3)
    closing, gate, close = threading.Event(), threading.Event(), node.close_store

    def slow(store: RecordingStore) -> None:
        closing.set()
        gate.wait(30)
        close(store)

    monkeypatch.setattr(node, "close_store", slow)
    async with updating(node, first := FakeLog(0, 3)) as updater:
        await until(lambda: first.resumed == [(PARTITION, 0)])
        await updater.on_assigned(frozenset(), FakeLog())
        await until(closing.is_set)
        await updater.on_assigned(frozenset({PARTITION}), log)
        gate.set()
        await until(lambda: log.resumed == [(PARTITION, 0)])
        await hand_over(updater, records(0, 1, 2))
        await until(lambda: [each.applied_offset for each in updater.status()] == [2])
    assert items(node) == [0, 1, 2]


@pytest.mark.parametrize("serve", ["caught_up", "stale"])
async def test_a_store_is_served_from_when_the_settings_say_and_through_a_rebalance(serve: str) -> None:
    node, log = make_node(serve=serve), FakeLog(0, 10)
    async with updating(node, log) as updater:
        await until(lambda: log.resumed == [(PARTITION, 0)])
        assert node.directory.served == ({PARTITION} if serve == "stale" else set())
        await hand_over(updater, records(*range(9)))
        await until(lambda: node.disks[PARTITION].applied_offset == 8)
        assert node.directory.served == ({PARTITION} if serve == "stale" else set())
        await hand_over(updater, records(9))
        await until(lambda: node.disks[PARTITION].applied_offset == 9 and node.directory.served == {PARTITION})
        # The partition returns with more lag: it was up to date before the rebalance, so it is still served.
        await updater.on_revoked(frozenset({PARTITION}))
        again = FakeLog(0, 20)
        await updater.on_assigned(frozenset({PARTITION}), again)
        await until(lambda: again.resumed == [(PARTITION, 10)])
        assert node.directory.served == {PARTITION}
    assert node.directory.served == set()


async def test_a_store_that_does_not_close_keeps_no_other_open(monkeypatch: pytest.MonkeyPatch) -> None:
    node, log = make_node(), FakeLog(0, 0)
    other = (PARTITION + 1) % 4
    close = node.close_store

    def fail(store: RecordingStore) -> None:
        close(store)
        if store.partition == min(PARTITION, other):
            raise OSError("the disk is full")

    monkeypatch.setattr(node, "close_store", fail)
    updater = node.make_updater()
    updater.start()
    await updater.on_assigned(frozenset({PARTITION, other}), log)
    await until(lambda: len(log.resumed) == 2)
    with pytest.raises(OSError, match="disk is full"):
        await updater.close()
    assert not any(store.open for store in node.disks.values())
