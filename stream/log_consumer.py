"""aiokafka's consumer with bounds, and with a fetcher that no record can stop. Every reader of a topic uses it.

aiokafka's own fetcher unpacks a batch without a bound, and raises again and again at a header name that is not UTF-8.
So this module replaces four private classes of aiokafka for the whole process. ``tests/stream/test_log_consumer.py``
pins the parts that it relies on:

- ``MemoryRecords`` holds the data of a fetch response. `LogBytes` splits it into batches.
- ``PartitionRecords`` parses the batches. `LogPartitionRecords` unpacks within a bound, and yields an
  `UnreadableRecords` for data that it cannot read.
- ``FetchResult.getall`` returns parsed records. `LogFetchResult` also limits their bytes.
- ``Fetcher.fetched_records`` collects the records of all partitions. `LogFetcher` gives each call one budget of bytes.

A batch with a wrong checksum is fetched a second time before it counts as unreadable, because the network may have
damaged it.
"""

import struct
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Final

import structlog
from aiokafka import AIOKafkaConsumer as LogConsumer
from aiokafka.cluster import ClusterMetadata
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
    decompress,
    has_large_record,
    header_of,
    read_records,
    unreadable_records,
)

__all__ = ["LogConsumer", "cluster_of", "partitions_of"]

MAX_FETCHED_BYTES: Final = 16 << 20
"""The budget of one call of `fetched_records`, in bytes of records; the last record may exceed it."""

_FRAME: Final = struct.Struct(">qi")
_MAGIC_AT: Final = 16
_MAGIC: Final = 2
_MIN_BATCH_BYTES: Final = 14

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _FetchState:
    """State of one fetcher, shared by the records of its partitions."""

    bytes_left: int = MAX_FETCHED_BYTES
    """The rest of the budget of the current call."""
    suspects: dict[TopicPartition, int] = field(default_factory=dict)
    """By partition the base offset of a batch whose checksum was wrong once."""


_fetch_state: ContextVar[_FetchState] = ContextVar("fetch_state")


class LogFetcher(aiokafka_fetcher.Fetcher):  # type: ignore[misc, unused-ignore]
    """A fetcher that returns a bounded number of bytes at once, of all partitions together."""

    def __init__(self, *args: Any, **options: Any) -> None:  # noqa: ANN401 - aiokafka's
        super().__init__(*args, **options)
        self._state = _FetchState()

    async def fetched_records(self, *args: Any, **options: Any) -> Mapping[TopicPartition, list[Record]]:  # noqa: ANN401
        self._state.bytes_left = MAX_FETCHED_BYTES
        token = _fetch_state.set(self._state)
        try:
            fetched: Mapping[TopicPartition, list[Record]] = await super().fetched_records(*args, **options)
        finally:
            _fetch_state.reset(token)
        return fetched


class LogFetchResult(aiokafka_fetcher.FetchResult):  # type: ignore[misc, unused-ignore]
    """The fetched records of one partition; the next call returns those that the budget did not cover."""

    _partition_records: "LogPartitionRecords | None"

    def getall(self, max_records: int | None = None) -> list[Record]:
        """Return the next records: at most `max_records`, and none once the budget is spent."""
        state = _fetch_state.get()
        fetched = self._partition_records
        if state.bytes_left <= 0 or fetched is None or not self.check_assignment(self._topic_partition):
            return []
        records: list[Record] = []
        for record in fetched:
            records.append(record)
            if state.bytes_left <= 0 or len(records) == max_records:
                self._update_position()
                break
        else:
            self._update_position()
            self._partition_records = None
        return records


class LogBytes:
    """The data of one partition in a fetch response: consecutive batches; the last one may be truncated."""

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)

    def size_in_bytes(self) -> int:
        """Return the number of bytes."""
        return len(self._data)

    def has_next(self) -> bool:
        """Return whether there is a complete batch."""
        return bool(next(self.batches(), b""))

    def batches(self) -> Iterator[memoryview]:
        """Yield the complete batches."""
        at = 0
        while len(self._data) - at > _FRAME.size:
            _, length = _FRAME.unpack_from(self._data, at)
            end = at + _FRAME.size + length
            if length < _MIN_BATCH_BYTES or end > len(self._data):
                return
            yield self._data[at:end]
            at = end


class LogPartitionRecords(aiokafka_fetcher.PartitionRecords):  # type: ignore[misc, unused-ignore]
    """Parses the batches of one partition, and leaves out the records of aborted transactions."""

    next_fetch_offset: int

    def _unpack_records(self) -> Iterator[Record]:
        for batch in self._records.batches():
            if batch[_MAGIC_AT] < _MAGIC:
                yield from self._legacy_records(batch)
                continue
            header = header_of(batch)
            parsed = DefaultRecordBatch(batch)
            if not parsed.validate_crc():
                if not self._is_confirmed(header):
                    return
                yield self._unreadable_batch(batch, header, "its checksum is wrong")
            elif parsed.is_control_batch:
                self._end_transaction(parsed)
            elif not self._is_aborted(parsed):
                yield from self._batch_records(batch, header)
            self.next_fetch_offset = max(header.last_offset + 1, self.next_fetch_offset)

    def _batch_records(self, batch: memoryview, header: BatchHeader) -> Iterator[Record]:
        try:
            plain = decompress(batch, header)
        except UnreadableError as error:
            yield self._unreadable_batch(batch, header, str(error))
            return
        if not has_large_record(plain, header):
            try:
                yield from self._parsed_records(DefaultRecordBatch(plain), header)
            except (KafkaError, ValueError):
                # The strict parser has failed. The lenient one continues after the last record that it yielded.
                pass
            else:
                return
        topic, partition = self._tp
        for record in read_records(plain, header_of(plain), topic, partition):
            if record.offset >= self.next_fetch_offset:
                if isinstance(record, UnreadableRecords):
                    _log_unreadable(record)
                _fetch_state.get().bytes_left -= size_of(record)
                self.next_fetch_offset = record.offset + 1
                yield record

    def _parsed_records(self, parsed: Any, header: BatchHeader | None = None) -> Iterator[Record]:  # noqa: ANN401 - aiokafka's
        """Yield the records of aiokafka's parser, from the next offset on.

        Raises ValueError at a record whose own offset does not fit its place in the batch; brokers do not check this.
        """
        topic, partition = self._tp
        state = _fetch_state.get()
        previous, last, is_dense = -1, 1 << 63, False
        if header is not None:
            previous, last, is_dense = header.base_offset - 1, header.last_offset, header.is_dense
        for source in parsed:
            offset = source.offset
            if not previous < offset <= last or (is_dense and offset != previous + 1):
                raise ValueError(f"offset {offset} after {previous}")
            previous = offset
            if offset < self.next_fetch_offset:
                # Brokers send whole batches, also when the requested offset is in the middle of one.
                continue
            key, value, headers = source.key, source.value, tuple(source.headers)
            key_size = -1 if key is None else len(key)
            value_size = -1 if value is None else len(value)
            record = ConsumerRecord(
                topic,
                partition,
                offset,
                source.timestamp,
                source.timestamp_type,
                key,
                value,
                source.checksum,
                key_size,
                value_size,
                headers,
            )
            state.bytes_left -= size_of(record) if headers else key_size + value_size
            self.next_fetch_offset = offset + 1
            yield record

    def _legacy_records(self, batch: memoryview) -> Iterator[Record]:
        """Read a message of format 0 or 1, which old logs may hold: one record, or several compressed ones."""
        topic, partition = self._tp
        last, _ = _FRAME.unpack_from(batch)
        try:
            check_legacy(batch)
            yield from self._parsed_records(LegacyRecordBatch(batch, batch[_MAGIC_AT]))
        except (KafkaError, UnreadableError, ValueError, AssertionError, IndexError, struct.error) as error:
            if last >= self.next_fetch_offset:
                why = str(error) or type(error).__name__
                unreadable = UnreadableRecords.of(batch, topic, partition, (self.next_fetch_offset, last), -1, why)
                _log_unreadable(unreadable)
                yield unreadable
        self.next_fetch_offset = max(last + 1, self.next_fetch_offset)

    def _unreadable_batch(self, batch: memoryview, header: BatchHeader, why: str) -> UnreadableRecords:
        topic, partition = self._tp
        first = max(header.base_offset, self.next_fetch_offset)
        unreadable = unreadable_records(batch, header, topic, partition, (first, header.last_offset), why)
        _log_unreadable(unreadable)
        _fetch_state.get().bytes_left -= len(batch)
        self.next_fetch_offset = header.last_offset + 1
        return unreadable

    def _is_confirmed(self, header: BatchHeader) -> bool:
        """Return whether a batch's checksum was wrong before; if not, remember it, so that it is fetched again."""
        suspects = _fetch_state.get().suspects
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


def _log_unreadable(records: UnreadableRecords) -> None:
    _log.warning(
        "unreadable records",
        topic=records.topic,
        partition=records.partition,
        offset=records.first_offset,
        until=records.offset,
        bytes=records.size,
        sha256=records.sha256,
        why=records.why,
    )


def cluster_of(consumer: LogConsumer) -> ClusterMetadata:
    """Return what a started consumer knows of the cluster."""
    cluster: ClusterMetadata = consumer._client.cluster  # noqa: SLF001 - pinned by a test
    return cluster


async def partitions_of(consumer: LogConsumer, topic: str) -> list[TopicPartition]:
    """Return all partitions of a topic, ascending; none if the topic is missing."""
    # The consumer's own `partitions_for_topic` knows only topics that it reads.
    cluster = await consumer._client.fetch_all_metadata()  # noqa: SLF001 - pinned by a test
    return [TopicPartition(topic, number) for number in sorted(cluster.partitions_for_topic(topic) or ())]


aiokafka_fetcher.MemoryRecords = LogBytes
aiokafka_fetcher.PartitionRecords = LogPartitionRecords
aiokafka_fetcher.FetchResult = LogFetchResult
aiokafka_consumer.Fetcher = LogFetcher
