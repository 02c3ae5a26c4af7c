"""Kafka's log as every reader here sees it: aiokafka's consumer, with a fetcher that no record can break.

aiokafka parses a batch in one go: it unpacks without a bound, and raises on a header name that is not UTF-8, for ever.
So four of its private classes are replaced for the whole process, and ``tests/stream/test_log_consumer.py`` pins what
that relies on:

- ``MemoryRecords`` holds what a broker gave. Ours gives the batches' bytes.
- ``PartitionRecords`` turns them into records. Ours unpacks with a bound, and gives an
  `UnreadableRecords` for what cannot be read.
- ``FetchResult.getall`` hands records over. Ours stops at a number of bytes too.
- ``Fetcher.fetched_records`` is one such handing over, for all partitions. Ours gives it one budget of bytes.

A batch whose checksum is wrong is fetched twice before it counts as unreadable: the damage may be the network's.
"""

import asyncio
import struct
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Final

import structlog
from aiokafka import AIOKafkaConsumer as LogConsumer
from aiokafka.consumer import consumer as aiokafka_consumer
from aiokafka.consumer import fetcher as aiokafka_fetcher
from aiokafka.errors import KafkaError
from aiokafka.record.default_records import DefaultRecordBatch
from aiokafka.record.legacy_records import LegacyRecordBatch
from aiokafka.structs import ConsumerRecord, TopicPartition

from lifeline.stream.record import Record, UnreadableRecords, size_of
from lifeline.stream.record_batch import (
    BatchHeader,
    UnreadableError,
    check_legacy,
    has_large_record,
    header_of,
    read_records,
    uncompressed,
    unreadable,
)

__all__ = ["LogConsumer", "partitions_of"]

MAX_FETCHED_BYTES: Final = 16 << 20
"""Bytes of records that are handed over at once, of all partitions; a record more may come with them."""

_FRAME: Final = struct.Struct(">qi")
_MAGIC_AT: Final = 16
_MAGIC: Final = 2
_MIN_BATCH_BYTES: Final = 14
_ASSIGN_POLL_S: Final = 0.01

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Reading:
    """What the readers of one fetcher share."""

    left: int = MAX_FETCHED_BYTES
    """The bytes that this handing over may still take."""
    suspects: dict[TopicPartition, int] = field(default_factory=dict)
    """Of a partition the batch, by its first offset, whose checksum was wrong once."""


_reading: ContextVar[_Reading] = ContextVar("reading")


class LogFetcher(aiokafka_fetcher.Fetcher):  # type: ignore[misc, unused-ignore]
    """Hands over a bounded number of bytes at once, of all partitions together."""

    def __init__(self, *args: Any, **options: Any) -> None:  # noqa: ANN401 - aiokafka's
        super().__init__(*args, **options)
        self._reading = _Reading()

    async def fetched_records(self, *args: Any, **options: Any) -> Mapping[TopicPartition, list[Record]]:  # noqa: ANN401
        self._reading.left = MAX_FETCHED_BYTES
        token = _reading.set(self._reading)
        try:
            fetched: Mapping[TopicPartition, list[Record]] = await super().fetched_records(*args, **options)
        finally:
            _reading.reset(token)
        return fetched


class LogFetchResult(aiokafka_fetcher.FetchResult):  # type: ignore[misc, unused-ignore]
    """What was fetched of one partition; what the budget leaves over comes with the next handing over."""

    _partition_records: "LogPartitionRecords | None"

    def getall(self, max_records: int | None = None) -> list[Record]:
        """Return the next records: at most `max_records`, and none once the budget is spent."""
        reading = _reading.get()
        fetched = self._partition_records
        if reading.left <= 0 or fetched is None or not self.check_assignment(self._topic_partition):
            return []
        records: list[Record] = []
        for record in fetched:
            records.append(record)
            if reading.left <= 0 or len(records) == max_records:
                self._update_position()
                break
        else:
            self._update_position()
            self._partition_records = None
        return records


class LogBytes:
    """What a broker gave of one partition: batches, one after the other; the last one may be cut."""

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)

    def size_in_bytes(self) -> int:
        """Return the number of bytes, whatever they are."""
        return len(self._data)

    def has_next(self) -> bool:
        """Say whether there is a whole batch."""
        return bool(next(self.batches(), b""))

    def batches(self) -> Iterator[memoryview]:
        """Yield the batches that are whole."""
        at = 0
        while len(self._data) - at > _FRAME.size:
            _, length = _FRAME.unpack_from(self._data, at)
            end = at + _FRAME.size + length
            if length < _MIN_BATCH_BYTES or end > len(self._data):
                return
            yield self._data[at:end]
            at = end


class LogPartitionRecords(aiokafka_fetcher.PartitionRecords):  # type: ignore[misc, unused-ignore]
    """The records of one partition as they were fetched, without those of aborted transactions."""

    next_fetch_offset: int

    def _unpack_records(self) -> Iterator[Record]:
        for batch in self._records.batches():
            if batch[_MAGIC_AT] < _MAGIC:
                yield from self._legacy(batch)
                continue
            header = header_of(batch)
            parsed = DefaultRecordBatch(batch)
            if not parsed.validate_crc():
                if not self._is_confirmed(header):
                    return
                yield self._lost(batch, header, "its checksum is wrong")
            elif parsed.is_control_batch:
                self._end_transaction(parsed)
            elif not self._is_aborted(parsed):
                yield from self._of_batch(batch, header)
            self.next_fetch_offset = max(header.last_offset + 1, self.next_fetch_offset)

    def _of_batch(self, batch: memoryview, header: BatchHeader) -> Iterator[Record]:
        try:
            plain = uncompressed(batch, header)
        except UnreadableError as error:
            yield self._lost(batch, header, str(error))
            return
        if not has_large_record(plain, header):
            try:
                yield from self._counted(DefaultRecordBatch(plain), header)
            except (KafkaError, ValueError):
                # The strict parser has met something. The other one goes on behind the last record it gave.
                pass
            else:
                return
        topic, partition = self._tp
        for record in read_records(plain, header_of(plain), topic, partition):
            if record.offset >= self.next_fetch_offset:
                if isinstance(record, UnreadableRecords):
                    _log_lost(record)
                _reading.get().left -= size_of(record)
                self.next_fetch_offset = record.offset + 1
                yield record

    def _counted(self, parsed: Any, header: BatchHeader | None = None) -> Iterator[Record]:  # noqa: ANN401 - aiokafka's
        """Yield what aiokafka's parser gives, from the next offset on.

        Raises ValueError at a record whose own offset is not that of its place in the batch: no broker checks it.
        """
        topic, partition = self._tp
        reading = _reading.get()
        before, last, dense = -1, 1 << 63, False
        if header is not None:
            before, last, dense = header.base_offset - 1, header.last_offset, header.is_dense
        for each in parsed:
            offset = each.offset
            if not before < offset <= last or (dense and offset != before + 1):
                raise ValueError(f"offset {offset} behind {before}")
            before = offset
            if offset < self.next_fetch_offset:
                # A batch is given whole, also to who asks for its middle.
                continue
            key, value, headers = each.key, each.value, tuple(each.headers)
            key_size = -1 if key is None else len(key)
            value_size = -1 if value is None else len(value)
            record = ConsumerRecord(
                topic,
                partition,
                offset,
                each.timestamp,
                each.timestamp_type,
                key,
                value,
                each.checksum,
                key_size,
                value_size,
                headers,
            )
            reading.left -= size_of(record) if headers else key_size + value_size
            self.next_fetch_offset = offset + 1
            yield record

    def _legacy(self, batch: memoryview) -> Iterator[Record]:
        """Read a message of the formats before 2, which old logs may hold: one record, or several in one."""
        topic, partition = self._tp
        last, _ = _FRAME.unpack_from(batch)
        try:
            check_legacy(batch)
            yield from self._counted(LegacyRecordBatch(batch, batch[_MAGIC_AT]))
        except (KafkaError, UnreadableError, ValueError, AssertionError, IndexError, struct.error) as error:
            if last >= self.next_fetch_offset:
                why = str(error) or type(error).__name__
                lost = UnreadableRecords.of(batch, topic, partition, (self.next_fetch_offset, last), -1, why)
                _log_lost(lost)
                yield lost
        self.next_fetch_offset = max(last + 1, self.next_fetch_offset)

    def _lost(self, batch: memoryview, header: BatchHeader, why: str) -> UnreadableRecords:
        topic, partition = self._tp
        first = max(header.base_offset, self.next_fetch_offset)
        lost = unreadable(batch, header, topic, partition, (first, header.last_offset), why)
        _log_lost(lost)
        _reading.get().left -= len(batch)
        self.next_fetch_offset = header.last_offset + 1
        return lost

    def _is_confirmed(self, header: BatchHeader) -> bool:
        """Say whether a batch's checksum was wrong before; if not, it is fetched again."""
        suspects = _reading.get().suspects
        if suspects.get(self._tp) == header.base_offset:
            del suspects[self._tp]
            return True
        suspects[self._tp] = header.base_offset
        _log.warning("a checksum is wrong: fetching again", topic=self._tp.topic, partition=self._tp.partition)
        return False

    def _is_aborted(self, parsed: Any) -> bool:  # noqa: ANN401 - aiokafka's
        if self._isolation_level != aiokafka_fetcher.READ_COMMITTED:
            return False
        self._consume_aborted_up_to(parsed.base_offset)
        return bool(parsed.is_transactional and parsed.producer_id in self._aborted_producers)

    def _end_transaction(self, parsed: Any) -> None:  # noqa: ANN401 - aiokafka's
        self._consume_aborted_up_to(parsed.base_offset)
        if self._contains_abort_marker(parsed):
            self._aborted_producers.discard(parsed.producer_id)


def _log_lost(lost: UnreadableRecords) -> None:
    _log.warning(
        "records cannot be read",
        topic=lost.topic,
        partition=lost.partition,
        offset=lost.first_offset,
        until=lost.offset,
        bytes=lost.size,
        sha256=lost.sha256,
        why=lost.why,
    )


async def partitions_of(consumer: LogConsumer, topic: str, timeout_s: float) -> list[TopicPartition]:
    """Assign all partitions of a topic to a consumer without a group, and return them; none when there is no topic.

    Raises TimeoutError.
    """
    if topic not in await consumer.topics():
        return []
    consumer.subscribe([topic])
    # The client assigns itself every partition as soon as it knows them.
    async with asyncio.timeout(timeout_s):
        while not consumer.assignment():  # noqa: ASYNC110 - the client offers nothing to wait for
            await asyncio.sleep(_ASSIGN_POLL_S)
    return sorted(consumer.assignment())


aiokafka_fetcher.MemoryRecords = LogBytes
aiokafka_fetcher.PartitionRecords = LogPartitionRecords
aiokafka_fetcher.FetchResult = LogFetchResult
aiokafka_consumer.Fetcher = LogFetcher
