"""What producers say of time: it must not make the events of others too old."""

import random
import time
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaAdminClient, KafkaProducer
from kafka.admin import ConfigResource, ConfigResourceType

from lifeline.config import LoadedSettings, Settings, load_settings
from lifeline.core.actions import MAX_TIMESTAMP_MS
from lifeline.core.kafka_errors import TopicMismatchError
from lifeline.core.kafka_settings import KafkaSettings
from lifeline.core.paths import partition_dir
from lifeline.core.topics import check_log_time, ensure_topics
from lifeline.core.vocabulary import Vocabulary
from lifeline.node.deadline import Deadline
from lifeline.node.node import Node
from lifeline.node.security_watch import SecurityWatch
from lifeline.ops.replay import plan_replay
from lifeline.ops.verify import verify_log
from lifeline.rpc.settings import NodeSettings
from lifeline.store.partition import PartitionStore
from lifeline.store.recount import recount
from lifeline.store.settings import StoreSettings
from lifeline.stream.apply import apply_steps
from lifeline.stream.decode import Rules, decode
from lifeline.stream.replay import replay
from lifeline.v1.action_pb2 import Action
from tests.e2e.conftest import silent
from tests.support.factories import HOUR_MS, open_store, tiny
from tests.support.records import FakeRecord

AGES = tiny(max_explicit=40, max_explicit_age_days=2, max_impression_age_days=1)
RULES = Rules(Vocabulary(), partitions=1, max_action_bytes=65_536, max_future_ms=24 * HOUR_MS)
START_MS = 480_000 * HOUR_MS


def action(user: str, timestamp_ms: int, item_id: int = 1) -> bytes:
    return Action(user_id=user, item_id=item_id, timestamp_ms=timestamp_ms, action_type=1).SerializeToString()


def logged(user: str, timestamp_ms: int, record_ms: int, *, by_log: bool = True) -> FakeRecord:
    return FakeRecord(0, user.encode(), action(user, timestamp_ms), record_ms, int(by_log), partition=0)


# A day and a half of people's events, in the log seconds after they happened.
HISTORY = [
    logged(f"user-{n % 7}", START_MS + n * HOUR_MS // 4, START_MS + n * HOUR_MS // 4 + 5_000) for n in range(144)
]
NOW_MS = HISTORY[-1].timestamp
POISON = {
    "no record time": logged("eve", (1 << 63) - 1, -1),
    "no record time, 2^62": logged("eve", 1 << 62, -1),
    "no record time, 2099": logged("eve", MAX_TIMESTAMP_MS, -1),
    "a time of the producer's": logged("eve", 1 << 62, 1 << 62, by_log=False),
    "a time of the producer's, 2099": logged("eve", MAX_TIMESTAMP_MS, MAX_TIMESTAMP_MS, by_log=False),
    "as far as may be": logged("eve", NOW_MS + 24 * HOUR_MS, NOW_MS),
    "too far": logged("eve", NOW_MS + 24 * HOUR_MS + 1, NOW_MS),
}


def applied(path: Path, records: list[FakeRecord], sizes: list[int]) -> PartitionStore:
    """Return a store that has applied records in batches of these sizes, the last of which counts for the rest."""
    records = [replace(record, offset=offset) for offset, record in enumerate(records)]
    store, at = open_store(path, AGES, partition=0), 0
    for number in range(len(records)):
        size = sizes[min(number, len(sizes) - 1)]
        if batch := records[at : at + size]:
            apply_steps(store, decode(batch, RULES).steps)
        at += size
    assert store.applied_offset == len(records) - 1
    return store


@pytest.mark.parametrize("poison", POISON.values(), ids=POISON.keys())
def test_one_record_empties_nobodys_history(tmp_path: Path, poison: FakeRecord) -> None:
    clean = applied(tmp_path / "clean", HISTORY, [10])
    poisoned = applied(tmp_path / "poisoned", [*HISTORY, poison], [10])
    assert poisoned.erase(b"eve", offset=10_000) == decode([poison], RULES).actions
    assert (poisoned.state.events, poisoned.fingerprint) == (clean.state.events, clean.fingerprint)
    assert clean.state.events == len(HISTORY)
    assert poisoned.watermark_ms <= NOW_MS
    poisoned.close()
    clean.close()


@pytest.mark.parametrize("seed", range(3))
def test_the_state_does_not_depend_on_how_the_log_is_cut(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    # Five days, so that most of it expires, with poison of every sort in between, and times of three sorts.
    records = [
        logged(
            f"user-{rng.randrange(9)}",
            START_MS + n * HOUR_MS // 2 - rng.choice([0, 0, HOUR_MS, 50 * HOUR_MS]),
            rng.choice([-1, START_MS + n * HOUR_MS // 2, START_MS + n * HOUR_MS // 2 - 3 * HOUR_MS]),
            by_log=rng.random() < 0.8,
        )
        for n in range(240)
    ]
    for poison in POISON.values():
        records.insert(rng.randrange(len(records)), poison)
    found = set()
    for number, sizes in enumerate(([1], [7], [240, 500], [rng.randrange(1, 40) for _ in range(240)])):
        store = applied(tmp_path / str(number), records, sizes)
        found.add((store.state.events, store.fingerprint, store.watermark_ms))
        assert tuple(recount(store)) == (store.state.events, store.fingerprint)
        store.close()
    assert len(found) == 1
    assert 0 < next(iter(found))[0] < 150


@pytest.fixture
def creation_time(kafka_settings: KafkaSettings) -> KafkaSettings:
    """A cluster whose actions topic believes what producers say of time."""
    kafka = kafka_settings.model_copy(update={"partitions": 1})
    admin = KafkaAdminClient(bootstrap_servers=kafka.bootstrap_servers)
    try:
        forever = str((1 << 63) - 1)
        configs = {"message.timestamp.type": "CreateTime", "message.timestamp.after.max.ms": forever}
        configs |= {"retention.ms": "-1"}
        admin.create_topics({kafka.actions_topic: {"num_partitions": 1, "replication_factor": 1, "configs": configs}})
    finally:
        admin.close()
    return kafka


CREATION_TIME = (
    r"message\.timestamp\.type is CreateTime, not LogAppendTime.*--add-config message\.timestamp\.type=LogApp"
)


@pytest.mark.kafka
def test_with_ages_a_topic_of_producers_times_is_refused(creation_time: KafkaSettings, tmp_path: Path) -> None:
    with pytest.raises(TopicMismatchError, match=CREATION_TIME):
        ensure_topics(creation_time, requires_log_time=True)
    with pytest.raises(TopicMismatchError, match="set neither store"):
        check_log_time(creation_time)
    aged = Settings(kafka=creation_time, store=AGES, node=NodeSettings(data_dir=tmp_path / "data"))
    with pytest.raises(TopicMismatchError, match=CREATION_TIME):
        plan_replay(aged, tmp_path / "into")
    open_store(partition_dir(aged.node.data_dir, 0), AGES, partition=0).close()
    with pytest.raises(TopicMismatchError, match=CREATION_TIME), silent() as bar:
        verify_log(aged, (), bar)
    # Without ages it differs, and is used.
    assert not any(report.is_unusable for report in ensure_topics(creation_time, requires_log_time=False))
    ageless = aged.model_copy(update={"store": StoreSettings()})
    assert [plan.until for plan in plan_replay(ageless, tmp_path / "into")] == [-1]


@pytest.mark.kafka
async def test_with_ages_a_node_does_not_start_on_a_topic_of_producers_times(
    creation_time: KafkaSettings, tmp_path: Path
) -> None:
    settings = Settings(kafka=creation_time, store=AGES, node=NodeSettings(data_dir=tmp_path / "data"))
    watch = SecurityWatch(LoadedSettings(settings, {}, None, load_settings))
    async with AsyncExitStack() as stack:
        with pytest.raises(TopicMismatchError, match=CREATION_TIME):
            await Node.start(settings, watch, stack, Deadline(5.0))


@pytest.mark.kafka
async def test_the_broker_says_whose_time_it_is(creation_time: KafkaSettings, tmp_path: Path) -> None:
    kafka = creation_time
    producer = KafkaProducer(bootstrap_servers=kafka.bootstrap_servers)
    now_ms = time.time_ns() // 1_000_000

    def publish(user: str, timestamp_ms: int, record_ms: int) -> Any:
        value = action(user, timestamp_ms)
        sent = producer.send(kafka.actions_topic, value, user.encode(), timestamp_ms=record_ms, partition=0)
        return sent.get(30)

    admin = KafkaAdminClient(bootstrap_servers=kafka.bootstrap_servers)
    try:
        publish("ann", now_ms - 10 * HOUR_MS, now_ms - 10 * HOUR_MS)
        publish("eve", MAX_TIMESTAMP_MS, MAX_TIMESTAMP_MS)
        publish("eve", 1 << 62, 1 << 62)
        store = open_store(tmp_path, AGES, partition=0)
        await replay(kafka, RULES, store, until=2)
        assert (store.state.events, store.watermark_ms) == (2, 0)
        change = {"message.timestamp.type": "LogAppendTime"}
        admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, kafka.actions_topic, change)])
        deadline = time.monotonic() + 30
        # The event is the same each time; from some moment on the broker gives the time.
        while (sent := publish("ann", now_ms, 5)).timestamp == 5:
            assert time.monotonic() < deadline
        await replay(kafka, RULES, store, until=sent.offset)
        assert (store.state.events, store.watermark_ms) == (3, now_ms)
        store.close()
    finally:
        admin.close()
        producer.close()
