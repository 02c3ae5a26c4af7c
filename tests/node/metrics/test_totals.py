import time
from pathlib import Path

import pytest

from lifeline.core.partitioner import partition_of
from lifeline.core.sequence import SequenceQuery
from lifeline.core.vocabulary import Vocabulary
from lifeline.node.metrics.totals import StoreTotals, StreamTotals
from lifeline.store.reader import SequenceReader
from lifeline.stream.decode import Rules, decode
from lifeline.stream.observer import AppliedBatch
from lifeline.stream.settings import UpdaterSettings
from lifeline.v1.action_pb2 import Action
from tests.support.factories import SHAPE, Event, batch_of, open_store
from tests.support.records import FakeRecord


def batch(values: list[bytes | None], timestamp_ms: int, *, was_serving: bool) -> AppliedBatch:
    partition = partition_of(b"ann", 4)
    records = [
        FakeRecord(offset=offset, partition=partition, key=b"ann", value=value, timestamp=timestamp_ms)
        for offset, value in enumerate(values)
    ]
    decoded = decode(records, Rules.of(Vocabulary(), 4, UpdaterSettings()))
    return AppliedBatch(3, records, 100, decoded, values.count(None), 0.02, was_serving)


GOOD = Action(user_id="ann", item_id=1, timestamp_ms=5, action_type=1).SerializeToString()


def test_batches_are_added_up_by_partition() -> None:
    totals = StreamTotals()
    now_ms = int(time.time() * 1000)
    totals.on_batch(batch([GOOD, b"bad", None, GOOD], now_ms, was_serving=False))
    totals.on_batch(batch([GOOD], now_ms - 700, was_serving=True))
    assert (totals.records[3], totals.record_bytes[3], totals.batches[3]) == (5, 200, 2)
    assert (totals.actions[3], totals.erasures[3]) == (3, 1)
    assert totals.dead_letters == {"undecodable": 1}
    assert dict(totals.batch_seconds.buckets()[0])["0.025"] == 2
    # Only what was applied while the partition served says how long an action takes to become readable.
    buckets, seconds = totals.action_to_readable.buckets()
    assert dict(buckets)["0.5"] == 0
    assert dict(buckets)["+Inf"] == 1
    assert seconds >= 0.7


def test_rebalances_are_timed_from_the_revocation() -> None:
    totals = StreamTotals()
    totals.on_assigned(frozenset({1}))
    assert (totals.rebalances, dict(totals.rebalance_seconds.buckets()[0])["+Inf"]) == (1, 0)
    totals.on_revoked(frozenset({1}))
    totals.on_assigned(frozenset())
    assert (totals.rebalances, dict(totals.rebalance_seconds.buckets()[0])["+Inf"]) == (2, 1)


def test_what_stores_count_outlives_them(tmp_path: Path) -> None:
    totals = StoreTotals()
    for again in (1, 2):
        store = open_store(tmp_path, SHAPE, partition=3)
        events = [Event(f"user-{number}".encode(), number, 1, 257) for number in range(10)]
        store.apply(batch_of(events), offset=20 * again)
        SequenceReader(store).read("user-1", SequenceQuery())
        SequenceReader(store).read_many(["nobody", "user-2"], SequenceQuery())
        totals.collect(store)
        totals.collect(store)
        store.erase(b"user-9", offset=20 * again + 10)
        totals.retire(store)
        store.close()
        # The second time they stand in it already, but for the one that was erased.
        assert totals.applied.inserted == 9 + again
        assert (totals.found, totals.empty, totals.erased) == (2 * again, again, again)
    assert totals.applied.repeated == pytest.approx(9)
