"""Dead letters read back: listed, looked at, and published again once what was wrong with them has been mended.

A retry publishes key, value and the record's own headers to the actions topic, with `lifeline.retries` counting up.
The dead letter stays where it is: a log forgets nothing, and an action that arrives twice changes nothing.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import StrEnum
from typing import Any, NamedTuple

from kafka import KafkaProducer
from kafka.errors import KafkaError

from stream.dead_letter_headers import RETRIES, Origin, origin_of, own_headers, retries_of
from stream.errors import DeadLetterError
from stream.partitioner import partition_of
from stream.record import Record
from stream.settings import KafkaSettings
from stream.topic_reader import reading
from stream.topics import MAX_RECORD_BYTES

_ADVICE = "create it with `lifeline topics create`"


class StoredLetter(NamedTuple):
    """One record of the dead-letter topic."""

    record: Record
    origin: Origin | None
    """What its headers say; None when they say nothing."""

    @property
    def reason(self) -> str:
        """Why it is here, in the words of whoever put it here."""
        return "" if self.origin is None else self.origin.reason


class RetryOutcome(StrEnum):
    """What a retry did with one letter."""

    PUBLISHED = "published"
    TOO_OFTEN = "too_often"
    """It has been published again as often as is allowed."""


class Retried(NamedTuple):
    """One letter after a retry."""

    letter: StoredLetter
    outcome: RetryOutcome
    partition: int
    """Where it went; -1 when it was passed over."""
    offset: int
    """-1 when it was passed over, or in a dry run."""


def read_letters(
    kafka: KafkaSettings,
    *,
    partitions: Sequence[int] = (),
    newest: int | None = None,
    wanted: Callable[[StoredLetter], bool] = lambda _: True,
) -> Iterator[StoredLetter]:
    """Yield the letters that are in the topic now and are `wanted`: partitions ascending, of each by offset.

    `newest` bounds the records that are read from the end of each partition. Raises ClusterUnreachableError,
    TopicMismatchError.
    """
    with reading(kafka, kafka.dead_letter_topic, advice=_ADVICE) as reader:
        for number in reader.partitions(partitions):
            start, end = reader.bounds(number)
            if newest is not None:
                start = max(start, end - newest)
            for record in reader.records(number, start, end):
                letter = StoredLetter(record, origin_of(record.headers))
                if wanted(letter):
                    yield letter


def read_letter(kafka: KafkaSettings, partition: int, offset: int) -> StoredLetter:
    """Return one letter. Raises ClusterUnreachableError, TopicMismatchError, DeadLetterError when it is not there."""
    with reading(kafka, kafka.dead_letter_topic, advice=_ADVICE) as reader:
        reader.partitions([partition])
        start, end = reader.bounds(partition)
        if start <= offset < end:
            for record in reader.records(partition, offset, offset + 1):
                return StoredLetter(record, origin_of(record.headers))
    raise DeadLetterError(
        f"{kafka.dead_letter_topic} {partition} has no record {offset} (it holds {start} to {end - 1}): see "
        "`lifeline dlq list`"
    )


def retry_letters(
    kafka: KafkaSettings, letters: Iterable[StoredLetter], *, max_retries: int, dry_run: bool
) -> Iterator[Retried]:
    """Publish letters again, one after the other, each acknowledged before it is yielded.

    The partition is the key's. Raises ClusterUnreachableError, DeadLetterError when one is not acknowledged: what was
    yielded before it is published.
    """
    producer = None
    try:
        for letter in letters:
            record, retries = letter.record, retries_of(letter.record.headers)
            if retries >= max_retries:
                yield Retried(letter, RetryOutcome.TOO_OFTEN, -1, -1)
                continue
            partition = partition_of(record.key or b"", kafka.partitions)
            offset = -1
            if not dry_run:
                producer = producer or _producer(kafka)
                offset = _publish(producer, kafka, record, partition, retries + 1)
            yield Retried(letter, RetryOutcome.PUBLISHED, partition, offset)
    finally:
        if producer is not None:
            producer.close()


def _publish(producer: Any, kafka: KafkaSettings, record: Record, partition: int, retries: int) -> int:  # noqa: ANN401
    headers = [*own_headers(record.headers), (RETRIES, str(retries).encode())]
    try:
        sent = producer.send(
            kafka.actions_topic, key=record.key, value=record.value, headers=headers, partition=partition
        ).get(kafka.request_timeout_ms / 1000)
    except KafkaError as error:
        raise DeadLetterError(
            f"dead letter {record.partition}/{record.offset} was not acknowledged by {kafka.actions_topic} ({error}): "
            "see to the cluster and retry from this one on"
        ) from error
    offset: int = sent.offset
    return offset


def _producer(kafka: KafkaSettings) -> Any:  # noqa: ANN401 - the library ships no types
    return KafkaProducer(
        **kafka.client_options(),
        acks="all",
        enable_idempotence=True,
        request_timeout_ms=kafka.request_timeout_ms,
        max_request_size=MAX_RECORD_BYTES + (1 << 20),
    )
