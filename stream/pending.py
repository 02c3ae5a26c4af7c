"""Queues of records that wait to be applied: one for each partition, with a common limit."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lifeline.stream.record import Record, records_from, size_of


class IntakeLimit:
    """Counts the waiting records of all partitions, and blocks the transport while there are too many."""

    def __init__(self, max_records: int, max_bytes: int) -> None:
        self.max_records, self.max_bytes = max_records, max_bytes
        self.records = self.bytes = 0
        self._room = asyncio.Event()
        self._room.set()

    def has_room(self) -> bool:
        """Return whether fewer than `max_records` records and fewer than `max_bytes` bytes wait."""
        return self._room.is_set()

    async def wait_for_room(self) -> None:
        """Return when there is room: this is the back-pressure."""
        await self._room.wait()

    def add(self, records: int, size: int) -> None:
        """Add waiting records and their bytes; negative numbers remove them."""
        self.records += records
        self.bytes += size
        if self.records < self.max_records and self.bytes < self.max_bytes:
            self._room.set()
        else:
            self._room.clear()


@dataclass(frozen=True, slots=True)
class Batch:
    """Records to be applied in one write."""

    records: Sequence[Record] = ()
    """Ascending by offset."""
    bytes: int = 0
    taken_at: float = 0.0
    """When they left the queue, seconds on the monotonic clock."""

    @property
    def first_ms(self) -> int:
        """The timestamp of the first record, milliseconds since 1970; 0 without records."""
        return self.records[0].timestamp if self.records else 0


class PendingRecords:
    """The queue of one partition, in the order of the log. It belongs to the event loop."""

    def __init__(self, limit: IntakeLimit) -> None:
        self._limit = limit
        self._runs: deque[tuple[Sequence[Record], int]] = deque()
        """Lists of records, each with its number of bytes."""
        self.records = self.bytes = 0
        self.waiting_since = 0.0
        """When the empty queue last got a record, seconds on the monotonic clock."""

    @property
    def first_ms(self) -> int | None:
        """The oldest record's timestamp, milliseconds since 1970; None without records. Callable from any thread."""
        try:
            return self._runs[0][0][0].timestamp
        except IndexError:
            return None

    def push(self, records: Sequence[Record]) -> None:
        """Append records that follow those in the queue."""
        size = sum(map(size_of, records))
        if not self._runs:
            self.waiting_since = time.monotonic()
        self._runs.append((records, size))
        self._count(len(records), size)

    def take(self, max_records: int, max_bytes: int, end_of: Callable[[int], int]) -> Batch:
        """Remove and return the first records: at most `max_records` and `max_bytes`, but at least one.

        `end_of` returns, for the first offset of a batch, the offset before which the batch must end. The batch is
        empty when no record waits.
        """
        records: list[Record] = []
        size = 0
        while self._runs and len(records) < max_records:
            run, run_size = self._runs.popleft()
            if len(run) <= max_records - len(records) and size + run_size <= max_bytes:
                records += run
                size += run_size
                continue
            at_least = 0 if records else 1
            count, prefix_size = _prefix(run, max_records - len(records), max_bytes - size, at_least=at_least)
            records += run[:count]
            size += prefix_size
            if count < len(run):
                self._runs.appendleft((run[count:], run_size - prefix_size))
                break
        if records and records[-1].offset >= (end := end_of(records[0].offset)):
            tail = records_from(records, end)
            tail_size = sum(map(size_of, tail))
            self._runs.appendleft((tail, tail_size))
            del records[-len(tail) :]
            size -= tail_size
        # Keep `waiting_since`: the remaining records have waited as long, so they are applied next, without a delay.
        self._count(-len(records), -size)
        return Batch(records, size, time.monotonic())

    def clear(self) -> None:
        """Drop all records."""
        self._runs.clear()
        self._count(-self.records, -self.bytes)

    def _count(self, records: int, size: int) -> None:
        self.records += records
        self.bytes += size
        self._limit.add(records, size)


def _prefix(run: Sequence[Record], max_records: int, max_bytes: int, *, at_least: int) -> tuple[int, int]:
    """Return how many of the first records fit, but at least `at_least`, and their bytes."""
    count = size = 0
    for record in run:
        record_size = size_of(record)
        if count >= at_least and (count >= max_records or size + record_size > max_bytes):
            break
        count += 1
        size += record_size
    return count, size
