"""The parts of the hostile benchmark: crafted bytes that a broker takes, mutations, and the arithmetic of its rows."""

import gzip
import random
import struct
import time
from collections.abc import Iterator

import pytest
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.record.util import decode_varint
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health
from grpc_reflection.v1alpha import reflection

from benchmarks.hostile import Attack, Run, Span, _bars, calls, crafted, times_x
from benchmarks.hostile.batch import RawProducer, batch, overflowing_varint, record, varint
from benchmarks.hostile.frame import HEADERS, call_headers, frame, message
from benchmarks.hostile.honest import TIMEOUT_S, HonestResult, Read, percentile_ms, within
from benchmarks.hostile.mutation import MUTATIONS, fill_message
from benchmarks.hostile.records import odd_action, odd_item
from benchmarks.hostile.supervisor import Death, Memory, NodeSupervisor
from benchmarks.hostile.target import hostile_user
from lifeline.core.kafka_settings import KafkaSettings
from lifeline.core.topics import create_topics, delete_topics
from lifeline.dev.node_process import NodeProcess
from lifeline.rpc.server import SERVICES
from lifeline.v1.action_pb2 import Action
from lifeline.v1.sequence_pb2 import GetSequenceRequest

NOW_MS = 1_700_000_000_000


@pytest.mark.parametrize("number", [0, 1, -1, 63, -64, 64, (1 << 31) - 1, -(1 << 31), (1 << 63) - 1, -(1 << 63)])
def test_varints_are_those_of_kafka(number: int) -> None:
    coded = varint(number)
    assert decode_varint(bytearray(coded), 0) == (number, len(coded))


@pytest.mark.parametrize("number", [0, 2, 300, (1 << 31) - 1])
def test_an_overflowing_varint_is_two_numbers(number: int) -> None:
    coded = overflowing_varint(number)
    assert decode_varint(bytearray(coded), 0) == (number + 7 * (1 << 31), 5)
    # Java's int has no room for what the fifth byte says beyond its lowest four bits.
    zigzag = sum((byte & 0x7F) << 7 * place for place, byte in enumerate(coded)) & 0xFFFFFFFF
    assert (zigzag >> 1) ^ -(zigzag & 1) == number


def test_a_batch_that_is_as_it_should_be_is_read() -> None:
    headers = [(b"name", b"value"), (b"none", None)]
    data = batch(record(b"k", b"v", headers) + record(None, None, offset_delta=1), 2, timestamp_ms=NOW_MS)
    records = MemoryRecords(data)
    read = records.next_batch()
    assert read is not None
    assert read.validate_crc()
    contents = [(item.offset, item.timestamp, item.key, item.value, list(item.headers)) for item in read]
    assert contents == [
        (0, NOW_MS, b"k", b"v", [("name", b"value"), ("none", None)]),
        (1, NOW_MS, None, None, []),
    ]


@pytest.fixture
def topics(kafka_settings: KafkaSettings) -> Iterator[KafkaSettings]:
    create_topics(kafka_settings)
    yield kafka_settings
    delete_topics(kafka_settings)


@pytest.mark.kafka
def test_the_broker_takes_what_is_crafted(topics: KafkaSettings) -> None:
    key, now_ms = hostile_user(0).encode(), time.time_ns() // 1_000_000
    value = Action(user_id=key.decode(), item_id=1, timestamp_ms=now_ms, action_type=1).SerializeToString()
    bombs = crafted.bombs(key, now_ms)
    assert all(len(bomb) < crafted.BOMB_BYTES // 16 for bomb in bombs.values())
    batches = crafted.plain(key, value, now_ms) | crafted.compressed(key, value, now_ms) | bombs
    good = batch(record(key, value), timestamp_ms=now_ms)
    with RawProducer(topics.servers[0]) as producer:
        refused = {
            name: outcome.error
            for name, each in batches.items()
            if not (outcome := producer.produce(topics.actions_topic, 0, each)).accepted
        }
        assert not refused
        assert not producer.produce(topics.actions_topic, 0, good[:-1] + b"?").accepted
        last = producer.produce(topics.actions_topic, 0, good)
        # Three of them are batches of two records.
        assert last.offset == len(batches) + 3


@pytest.mark.kafka
def test_the_items_topic_takes_crafted_batches_too(topics: KafkaSettings) -> None:
    batches = crafted.compressed(b"1", b"no item", time.time_ns() // 1_000_000)
    with RawProducer(topics.servers[0]) as producer:
        taken = [name for name, each in batches.items() if producer.produce(topics.items_topic, 0, each).accepted]
    # It is compacted, so that each record has a key; and its times are the producers', and none of tomorrow.
    assert len(taken) >= len(batches) - 3
    assert "attributes of two bytes, gzip" in taken


def test_mutations_of_the_least_there_is() -> None:
    rng = random.Random(1)
    for mutate in MUTATIONS:
        for data in (b"\x00", b"ab", bytes(300)):
            assert isinstance(mutate(rng, data), bytes)


def test_every_method_of_a_node_is_attacked() -> None:
    services = {path.split("/")[1] for path in calls.methods()}
    assert services == {*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME}


@pytest.mark.parametrize("path", sorted(calls.methods()))
def test_messages_of_every_method_are_made(path: str) -> None:
    rng = random.Random(2)
    message_type = GetMessageClass(calls.methods()[path].input_type)
    for _ in range(20):
        assert message_type.FromString(fill_message(rng, message_type).SerializeToString()).IsInitialized()


def test_odd_requests_are_of_several_sorts() -> None:
    rng, known = random.Random(3), calls.methods()
    odd = [calls.odd_request(rng, known) for _ in range(500)]
    assert {request.path for request in odd} > set(known)
    assert {bool(request.metadata) for request in odd} == {request.gzip for request in odd} == {True, False}


def test_number_bombs(monkeypatch: pytest.MonkeyPatch) -> None:
    for bomb in calls.number_bombs().values():
        assert len(bomb) < 4 << 20
        assert len(gzip.compress(bomb)) < 8 << 10
    monkeypatch.setattr(calls, "BOMB_NUMBERS", 1_000)
    small = {name.rpartition(" ")[2]: bomb for name, bomb in calls.number_bombs().items()}
    assert len(GetSequenceRequest.FromString(small["kinds"]).kinds) == 1_000
    assert len(GetSequenceRequest.FromString(small["action_types"]).action_types) == 1_000


def test_hostile_records_are_of_hostile_users() -> None:
    rng = random.Random(4)
    for number in range(5_000):
        key, value = odd_action(rng, hostile_user(number), NOW_MS)
        assert key is None or not key.startswith(b"honest")
        assert value is not None
        assert odd_item(rng)[0] is not None


def test_frames() -> None:
    block = call_headers("/a/B", "127.0.0.1:1", ("grpc-encoding", "gzip"))
    made = frame(HEADERS, 4, 3, block)
    assert int.from_bytes(made[:3]) == len(block) == len(made) - 9
    assert made[3:9] == bytes([HEADERS, 4, 0, 0, 0, 3])
    assert message(b"abc", compressed=True, length=7) == struct.pack(">BI", 1, 7) + b"abc"


def reads(*milliseconds: float, start: float = 0.0, fresh: bool = False) -> list[Read]:
    return [Read(start + number, duration_ms / 1_000, fresh, "") for number, duration_ms in enumerate(milliseconds)]


def test_percentiles_of_reads() -> None:
    assert percentile_ms(reads(*range(101)), 99) == pytest.approx(99)
    assert percentile_ms([], 99) == 1_000 * TIMEOUT_S
    assert times_x(2.0, 3.0) == 1.5


def test_reads_belong_to_the_phase_in_which_they_were_due() -> None:
    found = within([*reads(1, 2, 3, 4), *reads(9, start=1.5, fresh=True)], 1.0, 3.0, fresh=False)
    assert found == reads(1, 2, 3, 4)[1:3]
    assert len(within(reads(9, start=1.5, fresh=True), 1.0, 3.0, fresh=True)) == 1


class _Lived(NodeSupervisor):
    """One that followed a node, without the node."""

    def __init__(self, deaths: list[Death], memory: list[Memory]) -> None:
        super().__init__(NodeProcess.__new__(NodeProcess))
        self.deaths, self.memory = deaths, memory


def test_the_rows_that_have_to_hold() -> None:
    quiet, first, second, settled = (Span(start, start + 100) for start in (0.0, 100.0, 200.0, 300.0))
    slow = [1.0] * 90 + [5.0] * 10
    failed = Read(150.5, TIMEOUT_S, fresh=False, failure="why")
    honesty = HonestResult(
        [*reads(*[2.0] * 100), *reads(*[2.0] * 100, start=100), *reads(*slow, start=200), failed], {}, {}, 0
    )
    memory = [Memory(at, 100.0) for at in range(50)] + [Memory(at, 200.0) for at in range(50, 350)]
    memory += [Memory(at, 230.0) for at in range(350, 400)]
    attacks = {"first": Attack(first, 0.1), "second": Attack(second, 0.1)}
    measured = Run(quiet, settled, attacks, honesty, _Lived([Death(1.0, "why")], memory), lost_actions=3, ready=False)
    values = {row.measure: row.value for row in _bars(measured)}
    # A node that is not ready at last counts as dead; the read that failed is above the 99th percentile of 101.
    assert values == {
        "hostile_node_deaths": 2,
        "hostile_honest_lost": 4,
        "hostile_read_p99_x": pytest.approx(2.5),
        "hostile_rss_growth_mib": pytest.approx(30),
        "hostile_honest_lost_actions": 3,
        "hostile_honest_failed_reads": 1,
    }
    assert [row.bar.holds(row.value) for row in _bars(measured) if row.bar] == [False, False, False, True]
