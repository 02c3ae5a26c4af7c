import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka import KafkaAdminClient, KafkaProducer
from numpy.typing import NDArray
from structlog.testing import capture_logs

from lifeline.core.kafka_errors import ClusterUnreachableError, PartitionLostError, TopicMismatchError
from lifeline.core.kafka_settings import KafkaSettings
from lifeline.core.topics import create_topics
from lifeline.producer.producer import LifelineProducer
from lifeline.store.errors import DiskFullError
from lifeline.stream.items import ItemFollower, ItemProblem, decode_items
from lifeline.v1.item_pb2 import Item
from tests.support.items_topic import publish_items, recreate_items_topic
from tests.support.records import FakeRecord
from tests.support.stream_harness import until


class RecordingTable:
    """Rows by item; offsets by partition. It outlives its followers, as a directory would."""

    def __init__(self) -> None:
        self.rows: dict[int, tuple[bytes, int]] = {}
        self.offsets: dict[int, int] = {}
        self.before_apply: Callable[[], None] = lambda: None
        self.too_many = 0

    def applied_offset(self, partition: int) -> int:
        return self.offsets.get(partition, -1)

    def apply(
        self,
        item_id: NDArray[np.uint64],
        embedding: NDArray[np.int8],
        version: NDArray[np.uint32],
        *,
        partition: int,
        offset: int,
    ) -> int:
        self.before_apply()
        assert offset > self.applied_offset(partition)
        assert embedding.shape == (len(item_id), 32)
        for at, each in enumerate(item_id.tolist()):
            self.rows[each] = (embedding[at].tobytes(), int(version[at]))
        self.offsets[partition] = offset
        return self.too_many


@asynccontextmanager
async def following(kafka: KafkaSettings, table: RecordingTable) -> AsyncIterator[ItemFollower]:
    follower = ItemFollower(kafka, table)
    try:
        await follower.start()
        async with asyncio.timeout(20):
            await follower.caught_up.wait()
        yield follower
    finally:
        await follower.stop(5)


def item(number: int, fill: int = 1, version: int = 3) -> Item:
    return Item(item_id=number, embedding=bytes([fill]) * 32, embedding_version=version)


def raw(kafka: KafkaSettings, *records: tuple[bytes | None, bytes | None]) -> None:
    producer = KafkaProducer(bootstrap_servers=kafka.bootstrap_servers)
    for key, value in records:
        producer.send(kafka.items_topic, key=key, value=value, partition=0)
    producer.flush()
    producer.close()


@pytest.mark.kafka
async def test_a_table_follows_the_topic_and_goes_on_where_it_was(kafka_settings: KafkaSettings) -> None:
    create_topics(kafka_settings)
    table = RecordingTable()
    with LifelineProducer(kafka_settings) as producer:
        for number in range(500):
            producer.publish_item(item(number))
        producer.flush()
        async with following(kafka_settings, table) as follower:
            assert len(table.rows) == 500
            assert follower.records == 500
            producer.publish_item(item(7, fill=9, version=4))
            producer.forget_item(8)
            producer.flush()
            await until(lambda: follower.records == 502)
        assert table.rows[7] == (b"\x09" * 32, 4)
        assert table.rows[8] == (bytes(32), 0)
        producer.publish_item(item(2**64 - 1))
        producer.flush()
        async with following(kafka_settings, table) as follower:
            assert follower.records == 1
    assert table.rows[2**64 - 1] == (b"\x01" * 32, 3)
    assert len(table.rows) == 501


@pytest.mark.kafka
async def test_a_long_start_tells_how_far_it_is(kafka_settings: KafkaSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lifeline.stream.items._PROGRESS_S", 0.0)
    monkeypatch.setattr("lifeline.stream.items._BATCH", 100)
    create_topics(kafka_settings)
    table = RecordingTable()
    with LifelineProducer(kafka_settings) as producer:
        for number in range(1_000):
            producer.publish_item(item(number))
        producer.flush()
    with capture_logs() as logs:
        async with following(kafka_settings, table):
            pass
    progress = [line for line in logs if line["event"] == "items"]
    assert [line["of"] for line in progress] == [1_000] * len(progress)
    assert [line["read"] for line in progress] == sorted(line["read"] for line in progress)
    assert progress[-1]["read"] == 1_000
    assert "remaining_s" not in progress[-1]
    assert any(0 < line["read"] < 1_000 and line["remaining_s"] >= 0 for line in progress)


@pytest.mark.kafka
async def test_an_empty_topic_is_caught_up_at_once(kafka_settings: KafkaSettings) -> None:
    create_topics(kafka_settings)
    async with following(kafka_settings, RecordingTable()) as follower:
        assert follower.records == 0


BAD: list[tuple[bytes | None, bytes | None, ItemProblem]] = [
    (None, b"", ItemProblem.INVALID_KEY),
    (b"", None, ItemProblem.INVALID_KEY),
    (b"x", None, ItemProblem.INVALID_KEY),
    (b"07", None, ItemProblem.INVALID_KEY),
    (b"-1", None, ItemProblem.INVALID_KEY),
    (b"18446744073709551616", None, ItemProblem.INVALID_KEY),
    (b"7\n", None, ItemProblem.INVALID_KEY),
    (b"7", b"\xff\xff", ItemProblem.UNDECODABLE),
    (b"7", item(8).SerializeToString(), ItemProblem.KEY_MISMATCH),
    (b"7", Item(item_id=7, embedding=b"short").SerializeToString(), ItemProblem.INVALID_EMBEDDING),
    (b"7", Item(item_id=7).SerializeToString(), ItemProblem.INVALID_EMBEDDING),
]


@pytest.mark.parametrize(("key", "value", "problem"), BAD)
def test_each_problem(key: bytes | None, value: bytes | None, problem: ItemProblem) -> None:
    good = FakeRecord(key=b"7", value=item(7).SerializeToString())
    batch = decode_items([good, FakeRecord(offset=1, key=key, value=value), good])
    assert [(record.offset, why) for record, why in batch.problems] == [(1, problem)]
    assert batch.item_id.tolist() == [7, 7]


@given(st.lists(st.tuples(st.integers(0, 2**64 - 1), st.one_of(st.none(), st.binary(min_size=32, max_size=32)))))
def test_columns_hold_what_the_records_hold(rows: list[tuple[int, bytes | None]]) -> None:
    records = [
        FakeRecord(
            offset=at,
            key=str(number).encode(),
            value=None
            if row is None
            else Item(item_id=number, embedding=row, embedding_version=at).SerializeToString(),
        )
        for at, (number, row) in enumerate(rows)
    ]
    batch = decode_items(records)
    assert batch.problems == []
    assert batch.item_id.tolist() == [number for number, _ in rows]
    assert [row.tobytes() for row in batch.embedding] == [row or bytes(32) for _, row in rows]
    assert batch.version.tolist() == [0 if row is None else at for at, (_, row) in enumerate(rows)]
    assert [str(column.dtype) for column in batch[:3]] == ["uint64", "int8", "uint32"]


@pytest.mark.kafka
async def test_items_without_room_are_counted(kafka_settings: KafkaSettings) -> None:
    create_topics(kafka_settings)
    table = RecordingTable()
    table.too_many = 2
    raw(kafka_settings, (b"7", item(7).SerializeToString()))
    async with following(kafka_settings, table) as follower:
        assert follower.problems == {ItemProblem.TOO_MANY: 2}


@pytest.mark.kafka
async def test_bad_records_are_counted_and_passed_over(kafka_settings: KafkaSettings) -> None:
    create_topics(kafka_settings)
    table = RecordingTable()
    keyed = [(key, value) for key, value, _ in BAD if key]
    raw(kafka_settings, (b"7", item(7).SerializeToString()), *keyed, (b"9", item(9).SerializeToString()))
    async with following(kafka_settings, table) as follower:
        assert follower.problems.total() == len(keyed)
        assert follower.problems[ItemProblem.KEY_MISMATCH] == 1
    assert table.rows == {7: (b"\x01" * 32, 3), 9: (b"\x01" * 32, 3)}
    assert table.offsets == {0: len(keyed) + 1}


@pytest.mark.kafka
async def test_a_failing_write_ends_the_follower(kafka_settings: KafkaSettings) -> None:
    create_topics(kafka_settings)
    raw(kafka_settings, (b"7", item(7).SerializeToString()))
    table = RecordingTable()

    def fail() -> None:
        raise OSError(28, "No space left on device")

    table.before_apply = fail
    follower = ItemFollower(kafka_settings, table)
    try:
        await follower.start()
        with pytest.raises(OSError, match="No space left"):
            async with asyncio.timeout(20):
                await follower.wait()
    finally:
        await follower.stop(5)
        await follower.stop(5)


@pytest.mark.kafka
async def test_items_wait_for_room_on_the_disk(kafka_settings: KafkaSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lifeline.stream.items._FULL_DISK_S", 0.01)
    create_topics(kafka_settings)
    raw(kafka_settings, (b"7", item(7).SerializeToString()))
    table, attempts = RecordingTable(), iter(range(3))

    def fail() -> None:
        if next(attempts, None) is not None:
            raise DiskFullError("more embeddings", "/data/items", "No space left on device")

    table.before_apply = fail
    with capture_logs() as logs:
        async with following(kafka_settings, table):
            assert table.rows == {7: (bytes([1]) * 32, 3)}
    waits = [log for log in logs if log["event"] == "items wait"]
    assert ["free 64 MiB or more" in log["why"] for log in waits] == [True] * 3


async def start(kafka: KafkaSettings, table: Any) -> None:
    async with following(kafka, table):
        pytest.fail("it started")


@pytest.mark.kafka
async def test_a_topic_that_is_missing_or_was_made_anew(kafka_settings: KafkaSettings) -> None:
    table = RecordingTable()
    with pytest.raises(TopicMismatchError, match="does not exist"):
        await start(kafka_settings, table)
    create_topics(kafka_settings)
    table.offsets[2] = 10
    with pytest.raises(PartitionLostError, match=r"2 ends at 0, and offset 10 is applied.*<node.data_dir>/items aside"):
        await start(kafka_settings, table)


@pytest.mark.kafka
async def test_a_topic_that_is_made_anew_meanwhile_ends_the_follower(kafka_settings: KafkaSettings) -> None:
    create_topics(kafka_settings)
    publish_items(kafka_settings, 50, fill=1)
    table = RecordingTable()
    async with following(kafka_settings, table) as follower:
        await asyncio.to_thread(recreate_items_topic, kafka_settings)
        with pytest.raises(PartitionLostError, match="deleted and created again"):
            async with asyncio.timeout(30):
                await follower.wait()
    assert {row for row, _ in table.rows.values()} == {b"\x01" * 32}


@pytest.mark.kafka
async def test_partitions_that_are_added_are_followed(kafka_settings: KafkaSettings) -> None:
    create_topics(kafka_settings)
    publish_items(kafka_settings, 50, fill=1)
    table = RecordingTable()
    async with following(kafka_settings, table) as follower:
        admin = KafkaAdminClient(bootstrap_servers=kafka_settings.bootstrap_servers)
        try:
            admin.create_partitions({kafka_settings.items_topic: 6})
        finally:
            admin.close()
        assert follower._consumer is not None
        await follower._consumer._client.force_metadata_update()
        await until(lambda: len(follower._ends) == 6)
        publish_items(kafka_settings, 50, fill=2)
        await until(lambda: follower.records == 100)
    assert {row for row, _ in table.rows.values()} == {b"\x02" * 32}
    assert set(table.offsets) == set(range(6))


async def test_a_cluster_that_is_not_there() -> None:
    with pytest.raises(ClusterUnreachableError):
        await start(KafkaSettings(bootstrap_servers="127.0.0.1:1", connect_timeout_ms=200), RecordingTable())


@pytest.mark.kafka
async def test_items_behind_an_open_transaction_are_reported_and_waited_for_by_nobody(
    kafka_settings: KafkaSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lifeline.stream.items._HELD_S", 0.1)
    create_topics(kafka_settings)
    raw(kafka_settings, (b"1", item(1).SerializeToString()))
    producer = KafkaProducer(
        bootstrap_servers=kafka_settings.bootstrap_servers, transactional_id=f"tx-{kafka_settings.group_id}", acks="all"
    )
    await asyncio.to_thread(producer.init_transactions)
    producer.begin_transaction()
    producer.send(kafka_settings.items_topic, key=b"2", value=item(2).SerializeToString(), partition=0).get(30)
    raw(kafka_settings, (b"3", item(3).SerializeToString()))
    table = RecordingTable()
    with capture_logs() as logs:
        async with following(kafka_settings, table) as follower:
            assert set(table.rows) == {1}
            await until(lambda: follower.open_transaction_s > 0.1)
            await until(lambda: any(entry["event"] == "items are held back" for entry in logs))
            await asyncio.to_thread(producer.commit_transaction)
            await until(lambda: set(table.rows) == {1, 2, 3})
            await until(lambda: follower.open_transaction_s == 0.0)
    producer.close()
    (warning,) = [entry for entry in logs if entry["event"] == "items are held back"]
    assert f"abort --topic {kafka_settings.items_topic} --partition 0 --start-offset 1`" in warning["why"]
