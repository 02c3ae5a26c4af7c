"""The consumer that no record breaks: what it relies on in aiokafka, its budget of bytes, and wrong checksums."""

import asyncio
import inspect
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiokafka import TopicPartition
from aiokafka.consumer import consumer as aiokafka_consumer
from aiokafka.consumer import fetcher as aiokafka_fetcher
from aiokafka.consumer.consumer import AIOKafkaConsumer
from kafka import KafkaProducer

from benchmarks.hostile.batch import batch, record
from lifeline.core.kafka_settings import KafkaSettings
from lifeline.core.topics import create_topics
from lifeline.stream import log_consumer
from lifeline.stream.log_consumer import (
    LogBytes,
    LogConsumer,
    LogFetcher,
    LogFetchResult,
    LogPartitionRecords,
    _FetchState,
)
from lifeline.stream.record import Record, UnreadableRecords


def test_aiokafka_looks_its_parts_up_where_they_are_replaced() -> None:
    assert LogConsumer is AIOKafkaConsumer
    assert aiokafka_consumer.Fetcher is LogFetcher
    assert "self._fetcher = Fetcher(" in inspect.getsource(AIOKafkaConsumer.start)
    handling = inspect.getsource(aiokafka_fetcher.Fetcher._proc_fetch_request)
    for name, part in (
        ("MemoryRecords", LogBytes),
        ("PartitionRecords", LogPartitionRecords),
        ("FetchResult", LogFetchResult),
    ):
        assert getattr(aiokafka_fetcher, name) is part
        assert f"{name}(" in handling
    assert "records.has_next()" in handling
    assert "records.size_in_bytes()" in handling


def test_what_is_overridden_is_what_was_looked_at() -> None:
    parent = aiokafka_fetcher.PartitionRecords
    original = LogPartitionRecords.__mro__[1]
    assert parent is LogPartitionRecords
    assert list(inspect.signature(original.__init__).parameters) == [
        "self",
        "tp",
        "records",
        "aborted_transactions",
        "fetch_offset",
        "key_deserializer",
        "value_deserializer",
        "check_crcs",
        "isolation_level",
    ]
    assert "self._records_iterator = self._unpack_records()" in inspect.getsource(original.__init__)
    draining = inspect.getsource(LogFetcher.__mro__[1].fetched_records)
    assert "type(res_or_error) is FetchResult" in draining
    assert "res_or_error.getall(max_records)" in draining
    assert "if not records:" in draining
    assert list(inspect.signature(LogFetchResult.__mro__[1].getall).parameters) == ["self", "max_records"]


def test_batches_are_cut_where_they_end() -> None:
    first, second = batch(record(b"a", b"1")), batch(record(b"b", b"2"))
    assert [bytes(each) for each in LogBytes(first + second + first[:-1]).batches()] == [first, second]
    assert not LogBytes(first[:-1]).has_next()
    assert not LogBytes(b"").has_next()
    assert not LogBytes(bytes(40)).has_next()
    assert LogBytes(first + second).size_in_bytes() == len(first + second)


def test_a_wrong_checksum_is_believed_once_the_log_has_shown_it_twice() -> None:
    good, bad = batch(record(b"a", b"1")), bytearray(batch(record(b"b", b"2"), 3, last_offset_delta=2))
    bad[7], bad[-1] = 1, bad[-1] ^ 1
    after = bytearray(batch(record(b"c", b"3")))
    after[7] = 4
    tp = TopicPartition("actions", 3)

    def read(offset: int) -> tuple[list[Record], int]:
        data = LogBytes(good + bytes(bad) + bytes(after))
        records = LogPartitionRecords(tp, data, [], offset, None, None, True, 1)
        return list(records), records.next_fetch_offset

    token = log_consumer._fetch_state.set(_FetchState())
    try:
        records, position = read(0)
        assert ([each.offset for each in records], position) == ([0], 1)
        records, position = read(1)
        lost, behind = records
        assert isinstance(lost, UnreadableRecords)
        assert (lost.first_offset, lost.offset, lost.why) == (1, 3, "its checksum is wrong")
        assert (behind.offset, position) == (4, 5)
    finally:
        log_consumer._fetch_state.reset(token)


@asynccontextmanager
async def consuming(kafka: KafkaSettings) -> AsyncIterator[LogConsumer]:
    consumer = LogConsumer(**kafka.consumer_options(), auto_offset_reset="earliest", max_partition_fetch_bytes=8 << 20)
    await consumer.start()
    try:
        yield consumer
    finally:
        await consumer.stop()


@pytest.mark.kafka
async def test_one_handing_over_is_bounded_over_all_partitions_and_loses_nothing(
    kafka_settings: KafkaSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    budget = 200_000
    monkeypatch.setattr(log_consumer, "MAX_FETCHED_BYTES", budget)
    create_topics(kafka_settings)
    producer = KafkaProducer(bootstrap_servers=kafka_settings.bootstrap_servers)
    for partition in range(4):
        for at in range(100):
            # Headers count like values do.
            headers = [("h", os.urandom(5_000))] if at % 2 else []
            producer.send(
                kafka_settings.actions_topic, key=b"%d" % at, value=bytes(5_000), headers=headers, partition=partition
            )
    producer.flush()
    producer.close()
    seen: dict[int, list[int]] = {partition: [] for partition in range(4)}
    largest = 0
    async with consuming(kafka_settings) as consumer:
        consumer.assign([TopicPartition(kafka_settings.actions_topic, partition) for partition in range(4)])
        async with asyncio.timeout(30):
            while sum(map(len, seen.values())) < 400:
                fetched = await consumer.getmany(timeout_ms=500)
                for tp, records in fetched.items():
                    seen[tp.partition] += [each.offset for each in records]
                largest = max(largest, sum(len(records) for records in fetched.values()))
    assert seen == {partition: list(range(100)) for partition in range(4)}
    assert 10 < largest <= budget // 5_000 + 1
