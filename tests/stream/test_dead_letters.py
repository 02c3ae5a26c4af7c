import hashlib
import os
import time

import pytest
from kafka import KafkaAdminClient, KafkaProducer

from lifeline.core.kafka_errors import DeadLetterError
from lifeline.core.kafka_settings import KafkaSettings
from lifeline.core.topics import create_topics
from lifeline.core.vocabulary import Vocabulary
from lifeline.stream.dead_letter_headers import HEADERS_CUT, REASON, STUB_BYTES, STUB_SHA256, STUB_UNTIL, is_stub
from lifeline.stream.dead_letters import DeadLetterPublisher, _chunks, error_headers
from lifeline.stream.decode import DeadLetter, DeadLetterReason, Rules, decode
from lifeline.stream.record import UnreadableRecords
from lifeline.stream.settings import UpdaterSettings
from tests.support.dead_letters import read
from tests.support.records import PARTITION, FakeRecord

pytestmark = pytest.mark.kafka


async def test_a_dead_letter_is_the_record_byte_for_byte_and_says_why(kafka_settings: KafkaSettings) -> None:
    create_topics(kafka_settings)
    topic, partition = kafka_settings.actions_topic, 2
    headers: list[tuple[str, bytes]] = [("trace", b"\x00\xff"), ("trace", b""), ("größe", "é".encode())]
    values = [b"\xff\xfe\x00garbage", b"", None, b"z" * (2 << 20)]
    producer = KafkaProducer(bootstrap_servers=kafka_settings.bootstrap_servers, max_request_size=5 << 20)
    for value in values:
        producer.send(topic, key=b"\xfekey", value=value, headers=headers, partition=partition)
    producer.send(topic, key=None, value=b"\xff", partition=partition)
    producer.flush()
    producer.close()

    originals = read(kafka_settings, topic, partition, 5)
    rules = Rules(Vocabulary(), kafka_settings.partitions, 65_536, 1_000)
    letters = decode(originals, rules).dead_letters
    assert [letter.reason.value for letter in letters] == [
        "undecodable",
        "invalid_user_id",
        "invalid_user_id",
        "oversized",
        "undecodable",
    ]
    publisher = DeadLetterPublisher(kafka_settings, UpdaterSettings())
    await publisher.publish([])
    await publisher.publish(letters)
    await publisher.close()
    await publisher.close()
    dead = read(kafka_settings, kafka_settings.dead_letter_topic, partition, 5)
    for original, letter, record in zip(originals, letters, dead, strict=True):
        assert (record.key, record.value) == (original.key, original.value)
        own = len(original.headers)
        assert list(record.headers[:own]) == list(original.headers)
        assert dict(record.headers[own:]) == {
            "__connect.errors.topic": topic.encode(),
            "__connect.errors.partition": b"2",
            "__connect.errors.offset": str(original.offset).encode(),
            "__connect.errors.stage": error_headers(letter)[3][1],
            "__connect.errors.exception.class.name": error_headers(letter)[4][1],
            "__connect.errors.exception.message": letter.message.encode(),
            "lifeline.reason": letter.reason.value.encode(),
            "lifeline.timestamp": str(original.timestamp).encode(),
            "lifeline.timestamp-type": b"LogAppendTime",
        }
        assert len(record.headers) == own + 9


async def test_a_null_header_stays_null(kafka_settings: KafkaSettings) -> None:
    create_topics(kafka_settings)
    record = FakeRecord(value=b"\xff", headers=(("a", None), ("b", b"")))
    letter = DeadLetter(record, DeadLetterReason.UNDECODABLE, "why")
    publisher = DeadLetterPublisher(kafka_settings, UpdaterSettings())
    await publisher.publish([letter])
    await publisher.close()
    (dead,) = read(kafka_settings, kafka_settings.dead_letter_topic, record.partition, 1)
    assert list(dead.headers[:2]) == [("a", None), ("b", b"")]
    assert dict(dead.headers)[REASON] == b"undecodable"


async def test_a_dead_letter_that_finds_no_topic_is_an_error(kafka_settings: KafkaSettings) -> None:
    letter = DeadLetter(FakeRecord(value=b"\xff"), DeadLetterReason.UNDECODABLE, "why")
    publisher = DeadLetterPublisher(kafka_settings, UpdaterSettings(dead_letter_timeout_ms=1_000))
    try:
        with pytest.raises(DeadLetterError, match=r"1 dead letters were not acknowledged.*lifeline topics create"):
            await publisher.publish([letter])
    finally:
        await publisher.close()


def test_the_classes_and_stages_are_those_of_kafka_connect() -> None:
    for reason in DeadLetterReason:
        headers = dict(error_headers(DeadLetter(FakeRecord(), reason, "why")))
        assert headers["__connect.errors.stage"] in {b"KEY_CONVERTER", b"VALUE_CONVERTER", b"TASK_PUT"}
        module, _, name = headers["__connect.errors.exception.class.name"].decode().rpartition(".")
        assert hasattr(__import__(module, fromlist=[name]), name)


def test_letters_go_in_chunks_of_bounded_count_and_bytes() -> None:
    sizes = [10] * 1_200 + [3 << 20] * 3 + [10]
    letters = [
        DeadLetter(FakeRecord(offset=at, value=bytes(size)), DeadLetterReason.OVERSIZED, "why")
        for at, size in enumerate(sizes)
    ]
    chunks = list(_chunks(letters))
    assert [letter for chunk in chunks for letter in chunk] == letters
    assert [len(chunk) for chunk in chunks] == [500, 500, 201, 1, 2]
    assert list(_chunks([])) == []


async def test_a_letter_that_is_too_large_is_a_bounded_stub(kafka_settings: KafkaSettings) -> None:
    create_topics(kafka_settings)
    value, headers = os.urandom(6 << 20), tuple((f"h{at}", bytes(500)) for at in range(100))
    records: list[FakeRecord | UnreadableRecords] = [
        FakeRecord(offset=1, value=value, headers=headers),
        FakeRecord(offset=2, value=b"\xff"),
        FakeRecord(offset=3, key=bytes(5_500_000), value=None),
        UnreadableRecords("actions", PARTITION, 4, 9, -1, 77, "ab" * 32, b"head", "its checksum is wrong"),
    ]
    letters = [DeadLetter(record, DeadLetterReason.OVERSIZED, "why") for record in records]
    publisher = DeadLetterPublisher(kafka_settings, UpdaterSettings())
    await publisher.publish(letters)
    await publisher.close()
    large, small, long_key, unreadable = read(kafka_settings, kafka_settings.dead_letter_topic, PARTITION, 4)
    found = dict(large.headers)
    assert large.value == value[:1_024]
    assert (found[STUB_BYTES], found[STUB_SHA256]) == (b"6291456", hashlib.sha256(value).hexdigest().encode())
    assert found["__connect.errors.offset"] == b"1"
    assert list(large.headers[:8]) == list(headers[:8])
    assert found[HEADERS_CUT] == b"92"
    assert sum(len(name) + len(value) for name, value in large.headers) < 8_192
    assert (small.value, is_stub(small.headers), is_stub(large.headers)) == (b"\xff", False, True)
    assert (long_key.key, long_key.value, is_stub(long_key.headers)) == (bytes(1_024), None, True)
    found = dict(unreadable.headers)
    assert (unreadable.key, unreadable.value) == (None, b"head")
    assert (found[STUB_BYTES], found[STUB_UNTIL], found["__connect.errors.offset"]) == (b"77", b"9", b"4")


async def test_what_the_topic_refuses_goes_as_a_stub_and_no_other_letter_suffers(kafka_settings: KafkaSettings) -> None:
    """An operator's own dead-letter topic may take less than ours, and no times of its liking."""
    limits = {"max.message.bytes": "20000", "message.timestamp.before.max.ms": "3600000"}
    topic = {"num_partitions": 4, "replication_factor": 1, "configs": limits}
    admin = KafkaAdminClient(bootstrap_servers=kafka_settings.bootstrap_servers)
    admin.create_topics({kafka_settings.dead_letter_topic: topic})
    admin.close()
    now = time.time_ns() // 1_000_000
    records = [
        FakeRecord(offset=1, value=b"\xff", timestamp=now),
        FakeRecord(offset=2, value=os.urandom(50_000), timestamp=now),
        FakeRecord(offset=3, value=b"\xfe", timestamp=now),
        FakeRecord(offset=4, value=b"\xfd", timestamp=1_000),
    ]
    letters = [DeadLetter(record, DeadLetterReason.UNDECODABLE, "why") for record in records]
    publisher = DeadLetterPublisher(kafka_settings, UpdaterSettings())
    await publisher.publish(letters)
    await publisher.close()
    found = read(kafka_settings, kafka_settings.dead_letter_topic, PARTITION, 4)
    by_offset = {dict(letter.headers)["__connect.errors.offset"]: letter for letter in found}
    assert [by_offset[b"%d" % at].value for at in (1, 3, 4)] == [b"\xff", b"\xfe", b"\xfd"]
    assert is_stub(by_offset[b"2"].headers)
    assert by_offset[b"4"].timestamp >= now
