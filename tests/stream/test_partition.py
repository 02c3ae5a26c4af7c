from hypothesis import given
from hypothesis import strategies as st

from lifeline.stream.fingerprint_log import FingerprintLog
from lifeline.stream.partition import HeldPartition, PartitionState, after
from lifeline.stream.record import size_of
from tests.stream.test_decode import FakeRecord
from tests.support.stream_harness import RecordingStore


def never(_first: int) -> int:
    return 1 << 62


def run(start: int, count: int) -> list[FakeRecord]:
    return [FakeRecord(offset=offset) for offset in range(start, start + count)]


@given(st.lists(st.integers(1, 20), max_size=12), st.integers(1, 30))
def test_batches_keep_the_order_and_lose_nothing(sizes: list[int], limit: int) -> None:
    held: HeldPartition[RecordingStore] = HeldPartition(0)
    start = 0
    for size in sizes:
        held.push(run(start, size))
        start += size
    assert (held.pending_records, held.next_offset) == (start, start)
    taken: list[int] = []
    while held.pending:
        batch, _ = held.take(limit, 1 << 30, never)
        assert len(batch) == min(limit, start - len(taken))
        taken += [record.offset for record in batch]
        assert held.pending_records == start - len(taken)
    assert taken == list(range(start))
    assert held.take(limit, 1 << 30, never) == ([], 0)


@given(st.lists(st.integers(1, 20), max_size=12), st.integers(1, 30), st.integers(1, 25))
def test_a_batch_ends_where_it_has_to(sizes: list[int], limit: int, every: int) -> None:
    held: HeldPartition[RecordingStore] = HeldPartition(0)
    start = 7
    for size in sizes:
        held.push(run(start, size))
        start += size
    end_of = FingerprintLog(every).end_of_batch
    taken: list[int] = []
    while held.pending:
        batch, size = held.take(limit, 1 << 30, end_of)
        offsets = [record.offset for record in batch]
        assert len({offset // every for offset in offsets}) == 1
        assert len(batch) == limit or offsets[-1] + 1 in {start, end_of(offsets[0])}
        taken += offsets
        assert held.pending_records == start - 7 - len(taken)
        assert held.pending_bytes == sum(size_of(record) for records, _ in held.pending for record in records)
    assert taken == list(range(7, start))


def test_what_is_void_is_gone_and_the_epoch_tells() -> None:
    held: HeldPartition[RecordingStore] = HeldPartition(0, consuming=True)
    held.push(run(0, 5))
    assert held.void()[0] == 5
    assert (held.pending_records, held.epoch, held.consuming, held.take(9, 9, never)) == (0, 1, False, ([], 0))


@given(st.lists(st.integers(0, 60), unique=True).map(sorted), st.integers(0, 70))
def test_after_keeps_what_lies_at_or_above(offsets: list[int], offset: int) -> None:
    records = [FakeRecord(offset=each) for each in offsets]
    assert [record.offset for record in after(records, offset)] == [each for each in offsets if each >= offset]


def test_lag_counts_what_the_log_is_known_to_hold() -> None:
    held: HeldPartition[RecordingStore] = HeldPartition(3)
    assert (held.applied_offset, held.lag) == (-1, 0)
    held.end_offset = 10
    assert held.lag == 10
    held.store = RecordingStore(3, applied_offset=6)
    assert held.lag == 3
    held.passed_offset = 10
    assert held.lag == 0
    status = held.status()
    assert (status.partition, status.state, status.applied_offset) == (3, PartitionState.ASSIGNED, 6)


@given(
    st.lists(st.lists(st.integers(0, 50), min_size=1, max_size=6), max_size=8), st.integers(1, 9), st.integers(1, 99)
)
def test_a_batch_is_bounded_by_bytes_too_and_takes_at_least_one(
    runs: list[list[int]], limit: int, max_bytes: int
) -> None:
    held: HeldPartition[RecordingStore] = HeldPartition(0)
    sizes: list[int] = []
    for each in runs:
        records = [FakeRecord(offset=len(sizes) + at, key=b"", value=bytes(size)) for at, size in enumerate(each)]
        assert held.push(records) == sum(each)
        sizes += each
    taken: list[int] = []
    while held.pending:
        batch, size = held.take(limit, max_bytes, never)
        assert size == sum(len(record.value or b"") for record in batch)
        assert 1 <= len(batch) <= limit
        assert size <= max_bytes or len(batch) == 1
        taken += [record.offset for record in batch]
        full = len(batch) == limit or len(taken) == len(sizes) or size + sizes[len(taken)] > max_bytes
        assert full
        assert held.pending_bytes == sum(sizes[len(taken) :])
    assert taken == list(range(len(sizes)))
