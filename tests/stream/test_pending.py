import asyncio

from hypothesis import given
from hypothesis import strategies as st

from lifeline.stream.fingerprint_log import FingerprintLog
from lifeline.stream.pending import Batch, IntakeLimit, PendingRecords
from lifeline.stream.record import size_of
from tests.support.records import FakeRecord


def never(_first: int) -> int:
    return 1 << 62


def run_of(start: int, count: int) -> list[FakeRecord]:
    return [FakeRecord(offset=offset) for offset in range(start, start + count)]


def queue() -> tuple[PendingRecords, IntakeLimit]:
    limit = IntakeLimit(1 << 30, 1 << 40)
    return PendingRecords(limit), limit


def offsets_of(batch: Batch) -> list[int]:
    return [record.offset for record in batch.records]


@given(st.lists(st.integers(1, 20), max_size=12), st.integers(1, 30))
def test_batches_keep_the_order_and_lose_nothing(sizes: list[int], max_records: int) -> None:
    pending, limit = queue()
    start = 0
    for size in sizes:
        pending.push(run_of(start, size))
        start += size
    assert pending.records == limit.records == start
    taken: list[int] = []
    while pending.records:
        batch = pending.take(max_records, 1 << 30, never)
        assert len(batch.records) == min(max_records, start - len(taken))
        taken += offsets_of(batch)
        assert pending.records == limit.records == start - len(taken)
    assert taken == list(range(start))
    assert not pending.take(max_records, 1 << 30, never).records
    assert (pending.bytes, limit.bytes) == (0, 0)


@given(st.lists(st.integers(1, 20), max_size=12), st.integers(1, 30), st.integers(1, 25))
def test_a_batch_ends_where_it_has_to(sizes: list[int], max_records: int, every: int) -> None:
    pending, limit = queue()
    start = 7
    for size in sizes:
        pending.push(run_of(start, size))
        start += size
    end_of = FingerprintLog(every).end_of_batch
    taken: list[int] = []
    while pending.records:
        offsets = offsets_of(pending.take(max_records, 1 << 30, end_of))
        assert len({offset // every for offset in offsets}) == 1
        assert len(offsets) == max_records or offsets[-1] + 1 in {start, end_of(offsets[0])}
        taken += offsets
        assert pending.records == start - 7 - len(taken)
        assert pending.bytes == limit.bytes == pending.records * size_of(FakeRecord(offset=0))
    assert taken == list(range(7, start))


@given(
    st.lists(st.lists(st.integers(0, 50), min_size=1, max_size=6), max_size=8), st.integers(1, 9), st.integers(1, 99)
)
def test_a_batch_is_bounded_by_bytes_too_and_takes_at_least_one_record(
    runs: list[list[int]], max_records: int, max_bytes: int
) -> None:
    pending, _ = queue()
    sizes: list[int] = []
    for run in runs:
        pending.push([FakeRecord(offset=len(sizes) + at, key=b"", value=bytes(size)) for at, size in enumerate(run)])
        sizes += run
    assert pending.bytes == sum(sizes)
    taken: list[int] = []
    while pending.records:
        batch = pending.take(max_records, max_bytes, never)
        assert batch.bytes == sum(len(record.value or b"") for record in batch.records)
        assert 1 <= len(batch.records) <= max_records
        assert batch.bytes <= max_bytes or len(batch.records) == 1
        taken += offsets_of(batch)
        is_last = len(taken) == len(sizes)
        assert is_last or len(batch.records) == max_records or batch.bytes + sizes[len(taken)] > max_bytes
        assert pending.bytes == sum(sizes[len(taken) :])
    assert taken == list(range(len(sizes)))


async def test_the_limit_is_shared_and_holds_the_transport_back() -> None:
    limit = IntakeLimit(10, 1 << 30)
    first, second = PendingRecords(limit), PendingRecords(limit)
    first.push(run_of(0, 6))
    assert limit.has_room()
    second.push(run_of(0, 4))
    assert not limit.has_room()
    waiting = asyncio.create_task(limit.wait_for_room())
    await asyncio.sleep(0)
    assert not waiting.done()
    first.clear()
    async with asyncio.timeout(10):
        await waiting
    assert (limit.records, first.records, second.records) == (4, 0, 4)


def test_the_oldest_record_says_since_when_the_queue_waits() -> None:
    pending, _ = queue()
    pending.push([FakeRecord(offset=0, timestamp=7), FakeRecord(offset=1, timestamp=9)])
    since = pending.waiting_since
    assert pending.take(1, 1 << 30, never).first_ms == 7
    assert (pending.first_ms, pending.waiting_since) == (9, since)
    pending.clear()
    assert pending.first_ms is None
    assert Batch().first_ms == 0
