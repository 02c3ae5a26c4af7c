"""A user who was erased stays away: what a retry of dead letters may publish again."""

import json
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from typer.testing import CliRunner

from lifeline.cli import app
from lifeline.core.kafka_errors import TopicMismatchError
from lifeline.core.kafka_settings import KafkaSettings
from lifeline.core.partitioner import partition_of
from lifeline.core.topics import create_topics
from lifeline.stream import later_erasures
from lifeline.stream.dead_letter_reader import RetryOutcome, StoredLetter, read_letters, retry_letters
from lifeline.v1.action_pb2 import Action
from tests.support.action_topics import add_partitions

pytestmark = pytest.mark.kafka
HOUR_MS = 3_600_000


def action(user: str) -> bytes:
    return Action(user_id=user, item_id=7, timestamp_ms=5, action_type=1).SerializeToString()


def elsewhere(user: str) -> int:
    return (partition_of(user.encode(), 4) + 1) % 4


@dataclass
class Cluster:
    """Topics of a test: records and erasures in the log, and letters as several systems write them."""

    kafka: KafkaSettings
    producer: Any = field(init=False)

    def __post_init__(self) -> None:
        create_topics(self.kafka)
        self.producer = KafkaProducer(bootstrap_servers=self.kafka.bootstrap_servers, linger_ms=20)

    def log(self, user: str, value: bytes | None = b"bad", partition: int | None = None) -> Any:
        key = user.encode()
        number = partition_of(key, 4) if partition is None else partition
        return self.producer.send(self.kafka.actions_topic, value, key, partition=number)

    def put(self, user: str, value: bytes | None, headers: list[tuple[str, bytes]]) -> None:
        self.producer.send(self.kafka.dead_letter_topic, value, user.encode(), headers, partition=0).get(30)

    def letter(self, user: str, at: Any, *, value: bytes | None = None, **changes: int | str) -> None:
        """Put a letter as a node does, for a record at a place of the log."""
        said = {"partition": at.partition, "offset": at.offset, "timestamp": at.timestamp, "type": "LogAppendTime"}
        said |= changes
        headers = [(f"__connect.errors.{name}", str(said[name]).encode()) for name in ("partition", "offset")]
        headers += [("__connect.errors.topic", self.kafka.actions_topic.encode()), ("lifeline.reason", b"misrouted")]
        headers += [("lifeline.timestamp", str(said["timestamp"]).encode())]
        headers += [("lifeline.timestamp-type", str(said["type"]).encode())]
        self.put(user, value or action(user), headers)

    def letters(self) -> Iterator[StoredLetter]:
        return read_letters(self.kafka)

    def retry(self, **options: Any) -> list[str]:
        """Return the outcome of each letter, in the order in which they were put; nothing is published."""
        settings = {"max_retries": 3, "dry_run": True} | options
        return [letter.outcome.value for letter in retry_letters(self.kafka, self.letters, **settings)]


@pytest.fixture
def cluster(kafka_settings: KafkaSettings) -> Iterator[Cluster]:
    cluster = Cluster(kafka_settings)
    yield cluster
    cluster.producer.close()


def test_what_came_before_an_erasure_stays_away_and_what_came_after_it_goes(cluster: Cluster) -> None:
    before = cluster.log("ann")
    erased = cluster.log("ann", None)
    # In one batch of the producer, and so in one millisecond of the log.
    after = cluster.log("ann")
    cluster.producer.flush()
    assert (before.get().offset, erased.get().offset, after.get().offset) == (0, 1, 2)
    cluster.letter("ann", before.get())
    cluster.letter("ann", after.get())
    cluster.letter("bob", before.get(), partition=partition_of(b"bob", 4))
    # It names her, though its key is another's: her data would be in the log again.
    cluster.letter("bob", before.get(), value=action("ann"))
    assert cluster.retry() == ["erased", "published", "published", "erased"]
    # Erased once more, the second goes too.
    cluster.log("ann", None).get(30)
    assert cluster.retry() == ["erased", "erased", "published", "erased"]


def test_a_letter_from_another_partition_is_judged_by_the_log_s_time(cluster: Cluster) -> None:
    misrouted = cluster.log("ann", partition=elsewhere("ann")).get(30)
    # An erasure that went astray erases nobody.
    cluster.log("ann", None, partition=elsewhere("ann")).get(30)
    cluster.letter("ann", misrouted)
    assert cluster.retry() == ["published"]
    erased = cluster.log("ann", None).get(30)
    cluster.letter("ann", misrouted, timestamp=erased.timestamp + HOUR_MS)
    cluster.letter("ann", misrouted, timestamp=erased.timestamp + HOUR_MS, type="CreateTime")
    cluster.letter("ann", misrouted, timestamp=-1)
    assert cluster.retry() == ["erased", "published", "erased", "erased"]


def test_a_letter_of_which_nothing_says_where_it_was_counts_as_older(cluster: Cluster) -> None:
    spring = [
        ("kafka_dlt-original-topic", b"orders"),
        ("kafka_dlt-original-partition", struct.pack(">i", partition_of(b"ann", 4))),
        ("kafka_dlt-original-offset", struct.pack(">q", 70_000)),
    ]
    of_ours = [("kafka_dlt-original-topic", cluster.kafka.actions_topic.encode()), spring[1]]
    before = cluster.log("ann").get(30)
    cluster.put("ann", action("ann"), [])
    cluster.put("ann", action("ann"), spring)
    cluster.put("eve", action("eve"), spring)
    assert cluster.retry() == ["published"] * 3
    cluster.log("ann", None).get(30)
    after = cluster.log("ann").get(30)
    cluster.put("ann", action("ann"), [])
    # A foreign system that read the actions topic says where its letter was.
    for at in (before, after):
        cluster.put("ann", action("ann"), [*of_ours, ("kafka_dlt-original-offset", struct.pack(">q", at.offset))])
    # An erasure that could not be applied brings nobody back.
    cluster.put("ann", None, [])
    assert cluster.retry() == ["erased", "erased", "published", "erased", "erased", "published", "published"]


def test_a_topic_that_was_made_anew_has_erasures_at_lower_offsets(cluster: Cluster) -> None:
    erased = cluster.log("ann", None).get(30)
    cluster.log("ann").get(30)
    old = {"timestamp": erased.timestamp - HOUR_MS}
    cluster.letter("ann", erased, offset=1, **old)
    cluster.letter("ann", erased, offset=70_000, **old)
    assert cluster.retry() == ["erased", "erased"]


def test_a_log_that_does_not_go_back_to_a_letter_proves_nothing(cluster: Cluster) -> None:
    first = cluster.log("ann").get(30)
    cluster.log("ann", None).get(30)
    last = cluster.log("ann").get(30)
    cluster.letter("ann", first)
    cluster.letter("ann", last)
    cluster.put("ann", action("ann"), [])
    cluster.letter("ann", first, partition=elsewhere("ann"))
    assert cluster.retry() == ["erased", "published", "erased", "erased"]
    delete_before(cluster.kafka, last)
    assert cluster.retry() == ["unproven", "published", "unproven", "unproven"]
    assert cluster.retry(unproven=True) == ["published"] * 4
    # What the log does say counts all the same.
    cluster.log("ann", None).get(30)
    assert cluster.retry(unproven=True) == ["erased"] * 4


def delete_before(kafka: KafkaSettings, place: Any) -> None:
    """Do what retention does to the records before a place."""
    admin, tp = (
        KafkaAdminClient(bootstrap_servers=kafka.bootstrap_servers),
        TopicPartition(place.topic, place.partition),
    )
    consumer = KafkaConsumer(bootstrap_servers=kafka.bootstrap_servers)
    try:
        admin.delete_records({tp: place.offset})
        deadline = time.monotonic() + 30
        while consumer.beginning_offsets([tp])[tp] < place.offset:
            assert time.monotonic() < deadline
    finally:
        admin.close()
        consumer.close()


@pytest.mark.parametrize("refresh_s", [0.0, 3_600.0])
def test_an_erasure_during_a_retry_is_seen_or_told(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, refresh_s: float
) -> None:
    monkeypatch.setattr(later_erasures, "_REFRESH_S", refresh_s)
    at = cluster.log("ann").get(30)
    cluster.letter("ann", at)
    passes = 0

    def letters() -> Iterator[StoredLetter]:
        nonlocal passes
        passes += 1
        for letter in list(cluster.letters()):
            if passes == 2:
                cluster.log("ann", None).get(30)
                # One that comes now was not looked at in the log, and waits for the next retry.
                cluster.put("bob", action("bob"), [])
            yield letter
        if passes == 2:
            yield from list(cluster.letters())[1:]

    retries = retry_letters(cluster.kafka, letters, max_retries=3, dry_run=False)
    outcomes = [retry.outcome for retry in retries]
    late = [RetryOutcome.PUBLISHED, RetryOutcome.OVERTAKEN]
    assert outcomes == ([RetryOutcome.ERASED] if refresh_s == 0 else late)


WAYS: dict[str, Callable[[int], list[str]]] = {
    "offset": lambda offset: ["--partition", "0", "--offset", str(offset)],
    "reason": lambda _: ["--reason", "misrouted"],
    "all": lambda _: ["--all"],
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
def test_the_command_says_whom_it_passes_over(cluster: Cluster, way: Callable[[int], list[str]]) -> None:
    at = cluster.log("ann").get(30)
    cluster.log("ann", None).get(30)
    cluster.letter("ann", at)
    flags = {
        "LIFELINE_KAFKA__BOOTSTRAP_SERVERS": cluster.kafka.bootstrap_servers,
        "LIFELINE_KAFKA__ACTIONS_TOPIC": cluster.kafka.actions_topic,
    }
    done = CliRunner().invoke(app, ["dlq", "retry", *way(0), "--json"], env=flags)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["outcomes"]["erased"] == 1
    assert [(letter["outcome"], letter["to_offset"]) for letter in found["letters"]] == [("erased", -1)]
    said = CliRunner().invoke(app, ["dlq", "retry", *way(0)], env=flags)
    assert "1 erased: their users were erased after them" in said.stdout
    assert cluster.log("ann").get(30).offset == 2


def test_no_letter_is_retried_where_erasures_may_be_in_partitions_that_were_added(cluster: Cluster) -> None:
    at = cluster.log("ann").get(30)
    cluster.letter("ann", at)
    assert cluster.retry() == [RetryOutcome.PUBLISHED.value]
    add_partitions(cluster.kafka, 6)
    with pytest.raises(TopicMismatchError, match=r"has 6 partitions, and kafka\.partitions is 4: a user's erasures"):
        cluster.retry()
