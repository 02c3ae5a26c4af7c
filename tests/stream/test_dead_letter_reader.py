"""Dead letters of a real topic: read back, and published again."""

import json
from typing import Any

import pytest
from kafka import KafkaProducer
from typer.testing import CliRunner

from lifeline.cli import app
from lifeline.core.kafka_errors import DeadLetterError, TopicMismatchError
from lifeline.core.kafka_settings import KafkaSettings
from lifeline.core.partitioner import partition_of
from lifeline.core.topics import create_topics
from lifeline.stream.dead_letter_reader import RetryOutcome, read_letter, read_letters, retry_letters
from lifeline.v1.action_pb2 import Action
from tests.support.dead_letters import read

pytestmark = pytest.mark.kafka
GOOD = Action(user_id="ann", item_id=7, timestamp_ms=5, action_type=1).SerializeToString()
ANN = partition_of(b"ann", 4)


def headers(reason: str, *more: tuple[str, bytes]) -> list[tuple[str, bytes]]:
    return [
        ("trace", b"\xff"),
        *more,
        ("__connect.errors.topic", b"actions"),
        ("__connect.errors.partition", b"1"),
        ("__connect.errors.offset", b"12"),
        ("__connect.errors.exception.message", b"what was wrong"),
        ("lifeline.reason", reason.encode()),
    ]


@pytest.fixture
def kafka(kafka_settings: KafkaSettings) -> KafkaSettings:
    """Four letters: two of partition 1, one of ann's that was tried twice, one without headers."""
    create_topics(kafka_settings)
    producer = KafkaProducer(bootstrap_servers=kafka_settings.bootstrap_servers)
    topic = kafka_settings.dead_letter_topic
    producer.send(topic, key=b"ann", value=GOOD, headers=headers("misrouted"), partition=1, timestamp_ms=99)
    producer.send(topic, key=b"\xfe", value=b"\xff\x00", headers=headers("undecodable"), partition=1)
    tried = headers("unknown_surface", ("lifeline.retries", b"2"))
    producer.send(topic, key=b"ann", value=None, headers=tried, partition=3)
    producer.send(topic, key=b"ann", value=b"\xff", partition=3)
    producer.flush()
    producer.close()
    return kafka_settings


def places(letters: Any) -> list[tuple[int, int]]:
    return [(letter.record.partition, letter.record.offset) for letter in letters]


def lifeline(kafka: KafkaSettings, *arguments: str) -> Any:
    flags = {
        "LIFELINE_KAFKA__BOOTSTRAP_SERVERS": kafka.bootstrap_servers,
        "LIFELINE_KAFKA__ACTIONS_TOPIC": kafka.actions_topic,
    }
    done = CliRunner().invoke(app, ["dlq", *arguments], env=flags)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout) if "--json" in arguments else done.stdout


def test_letters_are_read_from_the_end_of_each_partition(kafka: KafkaSettings) -> None:
    assert places(read_letters(kafka)) == [(1, 0), (1, 1), (3, 0), (3, 1)]
    assert places(read_letters(kafka, newest=1)) == [(1, 1), (3, 1)]
    assert places(read_letters(kafka, partitions=[3])) == [(3, 0), (3, 1)]
    assert places(read_letters(kafka, predicate=lambda letter: letter.reason == "undecodable")) == [(1, 1)]
    assert read_letter(kafka, 1, 0).record.value == GOOD
    with pytest.raises(DeadLetterError, match=r"has no record 9 \(it holds 0 to 1\)"):
        read_letter(kafka, 1, 9)
    with pytest.raises(TopicMismatchError, match="no partition 7"):
        list(read_letters(kafka, partitions=[7]))


def test_a_topic_that_is_not_there_is_named(kafka_settings: KafkaSettings) -> None:
    with pytest.raises(TopicMismatchError, match="lifeline topics create"):
        list(read_letters(kafka_settings))


def test_a_retry_publishes_the_record_as_it_was_and_counts(kafka: KafkaSettings) -> None:
    letters = list(read_letters(kafka))
    dry = list(retry_letters(kafka, lambda: letters, max_retries=3, dry_run=True))
    assert {letter.offset for letter in dry} == {-1}
    done = list(retry_letters(kafka, lambda: letters, max_retries=2, dry_run=False))
    passed_over = (RetryOutcome.TOO_OFTEN, -1, -1)
    assert (done[2].outcome, done[2].partition, done[2].offset) == passed_over
    assert [letter.outcome for letter in done].count(RetryOutcome.PUBLISHED) == 3
    assert (done[0].partition, done[0].offset) == (ANN, 0)
    first, second = read(kafka, kafka.actions_topic, ANN, 2)
    assert (first.key, first.value) == (b"ann", GOOD)
    assert list(first.headers) == [("trace", b"\xff"), ("lifeline.retries", b"1")]
    assert list(second.headers) == [("lifeline.retries", b"1")]
    assert places(read_letters(kafka)) == places(letters)


def test_the_command_lists_shows_and_retries(kafka: KafkaSettings) -> None:
    listed = lifeline(kafka, "list", "--json", "--reason", "misrouted")
    assert [(letter["partition"], letter["offset"], letter["key"]) for letter in listed] == [(1, 0, "ann")]
    assert listed[0]["origin"]["message"] == "what was wrong"
    assert "4 dead letters" in lifeline(kafka, "list")
    shown = lifeline(kafka, "show", "1", "0")
    assert "item_id: 7" in shown
    assert "misrouted" in shown
    assert "000000  ff00" in lifeline(kafka, "show", "1", "1")
    whole = lifeline(kafka, "show", "1", "1", "--json")
    assert (whole["value_hex"], whole["key"]) == ("ff00", "0xfe")
    retried = lifeline(kafka, "retry", "--partition", "1", "--offset", "0", "--json")
    assert [(letter["outcome"], letter["to_partition"], letter["to_offset"]) for letter in retried["letters"]] == [
        ("published", ANN, 0)
    ]
    passed = lifeline(kafka, "retry", "--reason", "unknown_surface", "--max-retries", "2", "--json")
    assert passed["letters"][0]["to_offset"] == -1
    assert {name: count for name, count in passed["outcomes"].items() if count} == {"too_often": 1}
    assert set(passed["outcomes"]) == {outcome.value for outcome in RetryOutcome}
    result = CliRunner().invoke(app, ["dlq", "retry"])
    assert result.exit_code == 2
