"""Reads dead letters, to list and show them, and publishes them again after the cause was corrected.

A retry publishes the key, the value and the record's own headers to the actions topic, and increments
`lifeline.retries`. The dead letter stays in its topic until its retention ends; an action that arrives twice changes
nothing. A retry skips letters of users who were erased later, because it would bring the users back
(later_erasures.py).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from enum import StrEnum
from typing import Any, Final, NamedTuple

from kafka import KafkaProducer
from kafka.errors import KafkaError

from lifeline.core.kafka_cluster import cluster_error
from lifeline.core.kafka_errors import DeadLetterError
from lifeline.core.kafka_settings import KafkaSettings
from lifeline.core.partitioner import partition_of
from lifeline.core.topics import MAX_RECORD_BYTES
from lifeline.stream.dead_letter_headers import RETRIES, Origin, is_stub, origin_of, own_headers, retries_of
from lifeline.stream.later_erasures import ErasureStatus, ErasureWindow, LaterErasures
from lifeline.stream.record import Record, UnreadableRecords
from lifeline.stream.topic_reader import open_topic

_ADVICE = "create it with `lifeline topics create`"


class StoredLetter(NamedTuple):
    """One record of the dead-letter topic."""

    record: Record
    origin: Origin | None
    """Where it comes from, by its headers; None when no known system wrote them."""

    @property
    def place(self) -> tuple[int, int]:
        """Partition and offset in the dead-letter topic."""
        return self.record.partition, self.record.offset

    @property
    def reason(self) -> str:
        """The reason, in the words of the system that wrote the headers; empty when there is none."""
        return "" if self.origin is None else self.origin.reason

    @property
    def is_stub(self) -> bool:
        """Whether it cannot be published again: it is a stub, or is unreadable itself."""
        return isinstance(self.record, UnreadableRecords) or is_stub(self.record.headers)

    @property
    def timestamp_ms(self) -> int:
        """The original record's time, milliseconds since 1970; -1 when it is unknown."""
        return -1 if self.origin is None else self.origin.timestamp_ms


class RetryOutcome(StrEnum):
    """The outcome of a retry for one letter."""

    PUBLISHED = "published"
    TOO_OFTEN = "too_often"
    """Skipped: it has reached the maximum number of retries."""
    STUB = "stub"
    """Skipped: the letter has only the beginning of its record. Its headers say where the log has the whole record."""
    ERASED = "erased"
    """Skipped: its user was erased after it, or nothing shows that it is newer than an erasure of the user."""
    UNPROVEN = "unproven"
    """Skipped: the log no longer reaches back to it, so it may have held a later erasure of the user."""
    OVERTAKEN = "overtaken"
    """An erasure of its user arrived before it while it was being published: erase the user again."""


_SKIP_OUTCOMES: Final = {ErasureStatus.ERASED: RetryOutcome.ERASED, ErasureStatus.UNKNOWN: RetryOutcome.UNPROVEN}


class RetryResult(NamedTuple):
    """The result of a retry for one letter."""

    letter: tuple[int, int]
    """Partition and offset in the dead-letter topic."""
    outcome: RetryOutcome
    partition: int
    """The partition of the actions topic that it was published to; -1 when it was skipped."""
    offset: int
    """Its offset there; -1 when it was skipped, or in a dry run."""


def read_letters(
    kafka: KafkaSettings,
    *,
    partitions: Sequence[int] = (),
    newest: int | None = None,
    predicate: Callable[[StoredLetter], bool] = lambda _: True,
) -> Iterator[StoredLetter]:
    """Yield the letters of the topic's present content that match `predicate`, ascending by partition and offset.

    With `newest`, only that many offsets at the end of each partition are read. Raises ClusterUnreachableError,
    TopicMismatchError.
    """
    with open_topic(kafka, kafka.dead_letter_topic, advice=_ADVICE) as reader:
        for number in reader.partitions(partitions):
            start, end = reader.bounds(number)
            if newest is not None:
                start = max(start, end - newest)
            for record in reader.records(number, start, end):
                letter = StoredLetter(record, origin_of(record.headers))
                if predicate(letter):
                    yield letter


def read_letter(kafka: KafkaSettings, partition: int, offset: int) -> StoredLetter:
    """Return one letter. Raises ClusterUnreachableError, TopicMismatchError, or DeadLetterError if it is missing."""
    with open_topic(kafka, kafka.dead_letter_topic, advice=_ADVICE) as reader:
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
) -> Iterator[RetryResult]:
    """Publish letters again, in order, to the partitions of their keys; each is acknowledged before it is yielded.

    `letters` returns the letters, and is called twice: between the two passes the log is read for erasures of their
    users. With `unproven`, letters that the log no longer reaches back to are published too. At the end, letters that
    an erasure has overtaken are yielded a second time. Raises ClusterUnreachableError, TopicMismatchError, and
    DeadLetterError when a letter is not acknowledged; the letters yielded before it are published.
    """
    with open_topic(kafka, kafka.actions_topic, advice=_ADVICE) as log, ExitStack() as stack:
        erasures = LaterErasures(kafka, log)
        expected: dict[tuple[int, int], tuple[ErasureWindow, ...]] = {}
        for letter in letters():
            expected[letter.place] = erasures.windows(letter.record, letter.origin)
            erasures.expect(expected[letter.place])
        erasures.read()
        producer = None
        published: list[RetryResult] = []
        for letter in letters():
            if (windows := expected.get(letter.place)) is None:
                # It arrived between the two passes.
                continue
            retries = retries_of(letter.record.headers)
            if letter.is_stub:
                skip: RetryOutcome | None = RetryOutcome.STUB
            elif retries >= max_retries:
                skip = RetryOutcome.TOO_OFTEN
            else:
                skip = _SKIP_OUTCOMES.get(erasures.status(windows))
            if skip is not None and not (unproven and skip is RetryOutcome.UNPROVEN):
                yield RetryResult(letter.place, skip, -1, -1)
                continue
            partition = partition_of(letter.record.key or b"", kafka.partitions)
            offset = -1
            if not dry_run:
                producer = producer or stack.enter_context(closing(_producer(kafka)))
                offset = _publish(producer, kafka, letter.record, partition, retries + 1)
                published.append(RetryResult(letter.place, RetryOutcome.OVERTAKEN, partition, offset))
            yield RetryResult(letter.place, RetryOutcome.PUBLISHED, partition, offset)
        if published:
            erasures.read()
            for result in published:
                if erasures.is_overtaken(expected[result.letter], result.partition, result.offset):
                    yield result


def _publish(producer: Any, kafka: KafkaSettings, record: Record, partition: int, retries: int) -> int:  # noqa: ANN401
    headers = [*own_headers(record.headers), (RETRIES, str(retries).encode())]
    try:
        metadata = producer.send(
            kafka.actions_topic, key=record.key, value=record.value, headers=headers, partition=partition
        ).get(kafka.request_timeout_ms / 1000)
    except KafkaError as error:
        raise DeadLetterError(
            f"dead letter {record.partition}/{record.offset} was not acknowledged by {kafka.actions_topic} ({error}): "
            "check the cluster, and retry from this letter on"
        ) from error
    offset: int = metadata.offset
    return offset


def _producer(kafka: KafkaSettings) -> Any:  # noqa: ANN401 - the library ships no types
    try:
        return KafkaProducer(
            **kafka.client_options(),
            acks="all",
            enable_idempotence=True,
            request_timeout_ms=kafka.request_timeout_ms,
            max_block_ms=kafka.request_timeout_ms,
            bootstrap_timeout_ms=kafka.request_timeout_ms,
            max_request_size=MAX_RECORD_BYTES + (1 << 20),
        )
    except (KafkaError, OSError) as error:
        raise cluster_error(kafka, error) from error
