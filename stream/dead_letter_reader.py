"""Dead letters read back: listed, looked at, and published again once what was wrong with them has been mended.

A retry publishes key, value and the record's own headers to the actions topic, with `lifeline.retries` counting up.
The dead letter stays where it is until its retention has passed; an action that arrives twice changes nothing. A letter
of a user who was erased since is passed over, or it would bring the user back (later_erasures.py).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from enum import StrEnum
from typing import Any, Final, NamedTuple

from kafka import KafkaProducer
from kafka.errors import KafkaError

from lifeline.core.kafka_errors import DeadLetterError
from lifeline.core.kafka_settings import KafkaSettings
from lifeline.core.partitioner import partition_of
from lifeline.core.topics import MAX_RECORD_BYTES
from lifeline.stream.dead_letter_headers import RETRIES, Origin, is_stub, origin_of, own_headers, retries_of
from lifeline.stream.later_erasures import Later, LaterErasures, Mark
from lifeline.stream.record import Record, UnreadableRecords
from lifeline.stream.topic_reader import reading

_ADVICE = "create it with `lifeline topics create`"


class StoredLetter(NamedTuple):
    """One record of the dead-letter topic."""

    record: Record
    origin: Origin | None
    """What its headers say; None when they say nothing."""

    @property
    def place(self) -> tuple[int, int]:
        """Partition and offset in the dead-letter topic."""
        return self.record.partition, self.record.offset

    @property
    def reason(self) -> str:
        """Why it is here, in the words of whoever put it here."""
        return "" if self.origin is None else self.origin.reason

    @property
    def is_stub(self) -> bool:
        """Whether it cannot be published again: it is a stub, or cannot be read itself."""
        return isinstance(self.record, UnreadableRecords) or is_stub(self.record.headers)

    @property
    def timestamp_ms(self) -> int:
        """When the record itself was made or logged, as far as is known; -1 where it is not."""
        return -1 if self.origin is None else self.origin.timestamp_ms


class RetryOutcome(StrEnum):
    """What a retry did with one letter."""

    PUBLISHED = "published"
    TOO_OFTEN = "too_often"
    """It has been published again as often as is allowed."""
    STUB = "stub"
    """Passed over: the letter has only the beginning of its record. The whole is in the log, where its headers say."""
    ERASED = "erased"
    """Passed over: its user was erased after it, or nothing says that it is newer than an erasure of the user."""
    UNPROVEN = "unproven"
    """Passed over: the log no longer goes back to it, so an erasure of its user may be gone from there."""
    OVERTAKEN = "overtaken"
    """An erasure of its user came while it was being published, and stands before it: erase the user again."""


_PASSED_OVER: Final = {Later.ERASURE: RetryOutcome.ERASED, Later.UNKNOWN: RetryOutcome.UNPROVEN}


class Retried(NamedTuple):
    """One letter after a retry."""

    letter: tuple[int, int]
    """Partition and offset in the dead-letter topic."""
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
    kafka: KafkaSettings,
    letters: Callable[[], Iterable[StoredLetter]],
    *,
    max_retries: int,
    dry_run: bool,
    unproven: bool = False,
) -> Iterator[Retried]:
    """Publish letters again, one after the other, each acknowledged before it is yielded.

    `letters` gives them, twice: the log is read for erasures of their users in between, from the first letter's place
    on. With `unproven` a letter goes although the log no longer reaches back to it. Those that an erasure overtook are
    yielded a second time, at the end. The partition is the key's. Raises ClusterUnreachableError, TopicMismatchError,
    DeadLetterError when one is not acknowledged: what was yielded before it is published.
    """
    with reading(kafka, kafka.actions_topic, advice=_ADVICE) as log, ExitStack() as stack:
        erasures = LaterErasures(kafka, log)
        expected: dict[tuple[int, int], tuple[Mark, ...]] = {}
        for letter in letters():
            expected[letter.place] = erasures.marks(letter.record, letter.origin)
            erasures.expect(expected[letter.place])
        erasures.read()
        producer = None
        published: list[Retried] = []
        for letter in letters():
            if (marks := expected.get(letter.place)) is None:
                # It came in between.
                continue
            retries = retries_of(letter.record.headers)
            if letter.is_stub:
                why: RetryOutcome | None = RetryOutcome.STUB
            else:
                why = RetryOutcome.TOO_OFTEN if retries >= max_retries else _PASSED_OVER.get(erasures.of(marks))
            if why is not None and not (unproven and why is RetryOutcome.UNPROVEN):
                yield Retried(letter.place, why, -1, -1)
                continue
            partition = partition_of(letter.record.key or b"", kafka.partitions)
            offset = -1
            if not dry_run:
                producer = producer or stack.enter_context(closing(_producer(kafka)))
                offset = _publish(producer, kafka, letter.record, partition, retries + 1)
                published.append(Retried(letter.place, RetryOutcome.OVERTAKEN, partition, offset))
            yield Retried(letter.place, RetryOutcome.PUBLISHED, partition, offset)
        if published:
            erasures.read()
            for outcome in published:
                if erasures.overtaken(expected[outcome.letter], outcome.partition, outcome.offset):
                    yield outcome


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
