"""Records and batches that a hostile producer can get past a real broker, against everything that reads a topic."""

import asyncio
import gzip
import random
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import cramjam
import pytest
from aiokafka.codec import lz4_encode

from benchmarks.hostile.batch import GZIP, LZ4, SNAPPY, ZSTD, RawProducer, batch, field, framed, record, varint
from lifeline.core.kafka_settings import KafkaSettings
from lifeline.core.partitioner import partition_of
from lifeline.core.topics import create_topics
from lifeline.store.partition import PartitionStore
from lifeline.stream.dead_letter_headers import STUB_BYTES, STUB_SHA256, is_stub
from lifeline.stream.dead_letter_reader import RetryOutcome, read_letters, retry_letters
from lifeline.stream.items import ItemFollower, ItemProblem
from lifeline.stream.record import UnreadableRecords, first_offset_of
from lifeline.stream.replay import log_ranges, replay
from lifeline.stream.settings import UpdaterSettings
from lifeline.stream.topic_reader import read_topic
from lifeline.v1.action_pb2 import Action
from lifeline.v1.item_pb2 import Item
from tests.support.stream_harness import Node, RecordingStore, until

pytestmark = pytest.mark.kafka

KEY = b"ann"
PARTITION = partition_of(KEY, 4)
STRANGER = next(key for key in (b"bob-%d" % at for at in range(99)) if partition_of(key, 4) != PARTITION)
UPDATER = UpdaterSettings(batch_max_wait_ms=5, max_bad_share=1.0)


def action(item: int) -> bytes:
    return Action(user_id="ann", item_id=item, timestamp_ms=5, action_type=1).SerializeToString()


def good(item: int, offset_delta: int = 0, headers: Sequence[tuple[bytes, bytes | None]] = ()) -> bytes:
    return record(KEY, action(item), headers, offset_delta=offset_delta)


def odd(item: int, offset: bytes = varint(0), attributes: bytes = b"\0") -> bytes:
    return framed(attributes + varint(0) + offset + field(KEY) + field(action(item)) + varint(0))


def shorter(framed_record: bytes) -> bytes:
    """Return a record of less than 64 bytes whose length is one less than it has."""
    return bytes([framed_record[0] - 2]) + framed_record[1:]


class Crafted(NamedTuple):
    """A batch, and what has to come of it."""

    data: bytes
    items: tuple[int, ...] = ()
    """Actions that are good in spite of it."""
    letters: int = 0
    """Dead letters: one a record, or one for a batch that cannot be read at all."""


def gz(data: bytes, count: int = 1) -> bytes:
    return batch(gzip.compress(data), count, attributes=GZIP)


PACK: dict[int, Callable[[bytes], Any]] = {
    GZIP: gzip.compress,
    SNAPPY: cramjam.snappy.compress_raw,
    LZ4: lz4_encode,
    ZSTD: cramjam.zstd.compress,
}
# What a snappy batch of less than 4 MiB, the most that a broker takes, can unpack to.
BOMB = record(KEY, bytes(64 << 20))
CASES: dict[str, Crafted] = {
    "a header name that is not UTF-8": Crafted(batch(good(1, headers=[(b"\xff\xfe", b"x")])), (1,)),
    "the same, compressed, with neighbours": Crafted(
        gz(good(2) + good(3, 1, [(b"\xc3\x28", None)]) + good(4, 2), 3), (2, 3, 4)
    ),
    "50,000 headers": Crafted(batch(good(5, headers=[(b"", None)] * 50_000)), (5,)),
    "odd attributes": Crafted(batch(odd(6, attributes=b"\x80")), (6,)),
    "an offset from nowhere": Crafted(batch(odd(7, varint(2**31 - 1)) + good(8, 1), 2), (8,), 1),
    "an offset of more than 32 bits": Crafted(gz(odd(9, bytes([0x80, 0x80, 0x80, 0x80, 0x70]))), (9,)),
    "an offset before its batch": Crafted(batch(odd(10, varint(-1))), (), 1),
    "one offset twice": Crafted(batch(good(11) + good(12), 2), (11,), 1),
    "descending offsets": Crafted(batch(good(13, 1) + good(14, 0), 2), (), 2),
    "a record longer than it says, compressed": Crafted(gz(shorter(good(15))), (), 1),
    "bytes behind a gzip member": Crafted(batch(gzip.compress(good(16)) + b"garbage", attributes=GZIP), (16,)),
    "bytes behind an lz4 frame": Crafted(batch(lz4_encode(good(17)) + b"garbage", attributes=LZ4), (), 1),
    "a value of 8 MiB in 8 KiB": Crafted(gz(record(KEY, bytes(8 << 20))), (), 1),
    "a null value that claims a length of -2": Crafted(
        batch(framed(b"\0\0\0" + field(STRANGER) + varint(-2) + varint(0))), (), 1
    ),
    "negative times": Crafted(batch(good(18), timestamp_ms=-1), (18,)),
} | {
    f"a bomb of codec {codec}": Crafted(batch(bytes(PACK[codec](BOMB)), attributes=codec), (), 1)
    for codec in (GZIP, ZSTD, LZ4, SNAPPY)
}


def publish(kafka: KafkaSettings, topic: str, partition: int, batches: Sequence[bytes]) -> None:
    with RawProducer(kafka.bootstrap_servers) as producer:
        for data in batches:
            assert producer.produce(topic, partition, data).accepted


async def node_reads(kafka: KafkaSettings, count: int) -> tuple[list[int], dict[str, int]]:
    """Return the items of the user that a node has applied, and its dead letters by reason."""
    node = Node(kafka, UPDATER)
    async with node.running():
        await until(lambda: len(node.serving()) == 4)
        status = next(each for each in node.stream.status() if each.partition == PARTITION)
        assert status.applied_offset == count - 1
        return [item for _, _, item, _ in node.disks[PARTITION].events], {
            reason.value: number for reason, number in status.dead_letters.items()
        }


@pytest.fixture
def kafka(kafka_settings: KafkaSettings) -> KafkaSettings:
    create_topics(kafka_settings)
    return kafka_settings


async def test_no_crafted_batch_stops_a_reader_or_costs_a_neighbour(kafka: KafkaSettings) -> None:
    expected: list[int] = []
    batches: list[bytes] = []
    letters = 0
    for at, crafted in enumerate(CASES.values()):
        batches += [batch(good(1_000 + at)), crafted.data]
        expected += [1_000 + at, *crafted.items]
        letters += crafted.letters
    batches.append(batch(good(2_000)))
    expected.append(2_000)
    publish(kafka, kafka.actions_topic, PARTITION, batches)

    end = (await log_ranges(kafka))[PARTITION].until + 1
    items, dead = await node_reads(kafka, end)
    assert items == expected
    assert sum(dead.values()) == letters

    store = RecordingStore(PARTITION)
    store.open = True
    await replay(kafka, Node(kafka, UPDATER).rules(), cast("PartitionStore", store), until=end - 1)
    assert [item for _, _, item, _ in store.events] == expected

    # These have an event loop of their own, so they run in a thread.
    topic = await asyncio.to_thread(list, read_topic(kafka, kafka.actions_topic, advice=""))
    assert [each for each in topic if each.partition == PARTITION][-1].offset == end - 1
    dead_letters = await asyncio.to_thread(list, read_letters(kafka))
    assert len(dead_letters) == letters
    assert {letter.reason for letter in dead_letters} == set(dead) == {"unreadable", "oversized", "misrouted"}
    stubs = [dict(letter.record.headers) for letter in dead_letters if is_stub(letter.record.headers)]
    assert str(8 << 20).encode() in {stub[STUB_BYTES] for stub in stubs}
    assert all(len(stub[STUB_SHA256] or b"") == 64 for stub in stubs)
    assert all(len(letter.record.value or b"") <= 1_024 for letter in dead_letters if is_stub(letter.record.headers))
    # A stub published again would be another action, or the erasure of somebody.
    retries = await asyncio.to_thread(list, retry_letters(kafka, lambda: dead_letters, max_retries=3, dry_run=True))
    assert [retry.outcome is RetryOutcome.STUB for retry in retries] == [
        is_stub(letter.record.headers) for letter in dead_letters
    ]


async def test_no_crafted_batch_stops_the_items(kafka: KafkaSettings) -> None:
    class Table:
        def __init__(self) -> None:
            self.ids: list[int] = []
            self.offset = -1

        def applied_offset(self, partition: int) -> int:
            return self.offset if partition == 0 else 1 << 40

        def apply(self, item_id: Any, *_: Any, partition: int, offset: int) -> int:
            self.ids += item_id.tolist()
            assert partition == 0
            self.offset = offset
            return 0

    def item(number: int) -> bytes:
        return record(str(number).encode(), Item(item_id=number, embedding=bytes(32)).SerializeToString())

    crafted = [each.data for each in CASES.values() if len(each.data) < 1 << 20]
    one_partition = kafka.model_copy(update={"items_topic": kafka.items_topic + "-x", "items_partitions": 1})
    create_topics(one_partition)
    publish(one_partition, one_partition.items_topic, 0, [batch(item(1)), *(each for each in crafted), batch(item(2))])
    table = Table()
    follower = ItemFollower(one_partition, table)
    await follower.start()
    try:
        async with asyncio.timeout(30):
            await follower.caught_up.wait()
    finally:
        await follower.stop(5)
    assert table.ids == [1, 2]
    assert follower.problems[ItemProblem.UNREADABLE] >= 6


def altered(records: bytes, rng: random.Random) -> bytes:
    """Change a few bytes of the records of a batch, at places where lengths, deltas and headers are too."""
    changed = bytearray(records)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(changed))
        match rng.randrange(4):
            case 0:
                changed[at] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)])
            case 1:
                changed[at:at] = rng.randbytes(rng.randint(1, 6))
            case 2:
                del changed[at : at + rng.randint(1, 6)]
            case _:
                changed[at : at + 1] = bytes([changed[at] | 0x80, *([0x80] * rng.randint(0, 3)), rng.randrange(128)])
    return bytes(changed)


def test_any_batch_that_the_broker_takes_gives_each_offset_once(
    kafka: KafkaSettings, first_seed: int, is_long: bool
) -> None:
    rng = random.Random(first_seed)
    end = 0
    with RawProducer(kafka.bootstrap_servers) as producer:
        for _ in range(200_000 if is_long else 600):
            count = rng.randint(1, 4)
            records = altered(b"".join(good(at, at, [(b"h", b"x")] * (at % 2)) for at in range(count)), rng)
            codec = rng.choice([0, GZIP, ZSTD, SNAPPY, LZ4])
            packed = bytes(PACK[codec](records)) if codec else records
            if producer.produce(kafka.actions_topic, PARTITION, batch(packed, count, attributes=codec)).accepted:
                end += count
    expected = 0
    for each in read_topic(kafka, kafka.actions_topic, advice=""):
        assert first_offset_of(each) == expected, first_seed
        expected = each.offset + 1
    assert expected == end > 20


def test_what_cannot_be_read_is_said_with_its_place_and_digest(kafka: KafkaSettings) -> None:
    publish(kafka, kafka.actions_topic, PARTITION, [batch(good(1)), CASES["a bomb of codec 4"].data])
    lost = [each for each in read_topic(kafka, kafka.actions_topic, advice="") if isinstance(each, UnreadableRecords)]
    assert [(each.partition, each.first_offset, each.offset) for each in lost] == [(PARTITION, 1, 1)]
    assert "does not unpack within" in lost[0].why
    assert len(lost[0].sha256) == 64
