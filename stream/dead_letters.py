"""Publishes dead letters: records that cannot be applied, kept for an operator to inspect.

A dead letter is the record itself: the same partition number, key, value and headers, byte for byte. After the record's
own headers come Kafka Connect's and Lifeline's, as UTF-8 text: the reason, and the record's own timestamp. A record
that is too large for this, or unreadable, becomes a stub: its place in the log, its length and SHA-256, its first KiB
and its first headers. After a crash between the acknowledgement and the store's write, a dead letter is published a
second time; none is lost.
"""

import asyncio
import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import BrokerResponseError, KafkaError

from lifeline.core.kafka_errors import DeadLetterError
from lifeline.core.kafka_settings import KafkaSettings
from lifeline.core.topics import MAX_RECORD_BYTES
from lifeline.stream.aio import end_within
from lifeline.stream.dead_letter_headers import (
    CONNECT,
    HEADERS_CUT,
    REASON,
    STUB_BYTES,
    STUB_SHA256,
    STUB_UNTIL,
    TIMESTAMP,
    TIMESTAMP_TYPE,
    TIMESTAMP_TYPES,
)
from lifeline.stream.decode import DeadLetter, DeadLetterReason
from lifeline.stream.record import HEAD_BYTES, UnreadableRecords, first_offset_of, size_of
from lifeline.stream.settings import UpdaterSettings

_STAGES: Final = {
    DeadLetterReason.UNREADABLE: "VALUE_CONVERTER",
    DeadLetterReason.OVERSIZED: "VALUE_CONVERTER",
    DeadLetterReason.UNDECODABLE: "VALUE_CONVERTER",
    DeadLetterReason.INVALID_USER_ID: "KEY_CONVERTER",
}
_INVALID_ACTION: Final = "lifeline.core.kafka_errors.InvalidActionError"
_EXCEPTIONS: Final = {
    DeadLetterReason.UNREADABLE: "lifeline.stream.record_batch.UnreadableError",
    DeadLetterReason.UNDECODABLE: "google.protobuf.message.DecodeError",
}

_CHUNK_LETTERS: Final = 500
_CHUNK_BYTES: Final = 4 << 20
_CLOSE_S: Final = 1.0
_MAX_REQUEST_BYTES: Final = MAX_RECORD_BYTES + (1 << 20)
# Incompressible data grows by a few hundred bytes.
_MAX_LETTER_BYTES: Final = _MAX_REQUEST_BYTES - 4_096
_HEADER_OVERHEAD: Final = 10
_STUB_HEADER_BYTES: Final = 4_096
_LOGGED_LETTERS: Final = 5
_RECORD_ERRORS: Final = frozenset({2, 10, 18, 32, 44, 76, 87})
"""Kafka's error codes for a fault of the records: corrupt, message too large, batch too large, invalid timestamp,
policy violation, unsupported compression, invalid record. All others are a fault of the cluster, or of this login."""

_log = structlog.get_logger(__name__)


class LetterRecord(NamedTuple):
    """The record that is published for a dead letter."""

    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]

    @property
    def bytes(self) -> int:
        """An upper bound of the bytes on the wire, before compression."""
        headers = sum(len(name.encode()) + len(value or b"") + _HEADER_OVERHEAD for name, value in self.headers)
        return len(self.key or b"") + len(self.value or b"") + headers


def letter_record(letter: DeadLetter) -> LetterRecord:
    """Return the record with its error headers, or its stub when it is too large or unreadable."""
    record = letter.record
    if isinstance(record, UnreadableRecords):
        return stub_record(letter)
    whole = LetterRecord(record.key, record.value, [*record.headers, *error_headers(letter)])
    return whole if whole.bytes <= _MAX_LETTER_BYTES else stub_record(letter)


def stub_record(letter: DeadLetter) -> LetterRecord:
    """Return a record of bounded size: the first KiB of a dead letter, its length and digest, and its first headers."""
    record = letter.record
    head: bytes | None
    if isinstance(record, UnreadableRecords):
        size, sha256, head = record.size, record.sha256, record.head
    else:
        data = record.value or b""
        size, sha256, head = len(data), hashlib.sha256(data).hexdigest(), record.value
    first_headers: list[tuple[str, bytes | None]] = []
    bytes_left = _STUB_HEADER_BYTES
    for name, value in record.headers:
        bytes_left -= len(name.encode()) + len(value or b"") + _HEADER_OVERHEAD
        if bytes_left < 0:
            first_headers.append((HEADERS_CUT, str(len(record.headers) - len(first_headers)).encode()))
            break
        first_headers.append((name, value))
    stub_headers = [(STUB_BYTES, str(size)), (STUB_SHA256, sha256)]
    if first_offset_of(record) < record.offset:
        stub_headers.append((STUB_UNTIL, str(record.offset)))
    headers = [*first_headers, *error_headers(letter), *((name, text.encode()) for name, text in stub_headers)]
    key = None if record.key is None else record.key[:HEAD_BYTES]
    return LetterRecord(key, None if head is None else head[:HEAD_BYTES], headers)


def error_headers(letter: DeadLetter) -> list[tuple[str, bytes]]:
    """Return the headers that name the origin and the reason, in their order."""
    record = letter.record
    texts = (
        (CONNECT + "topic", record.topic),
        (CONNECT + "partition", str(record.partition)),
        (CONNECT + "offset", str(first_offset_of(record))),
        (CONNECT + "stage", _STAGES.get(letter.reason, "TASK_PUT")),
        (
            CONNECT + "exception.class.name",
            _EXCEPTIONS.get(letter.reason, _INVALID_ACTION),
        ),
        (CONNECT + "exception.message", letter.message),
        (REASON, letter.reason.value),
        (TIMESTAMP, str(record.timestamp)),
        (TIMESTAMP_TYPE, TIMESTAMP_TYPES.get(record.timestamp_type, "")),
    )
    return [(name, text.encode()) for name, text in texts]


def _chunks(letters: Sequence[DeadLetter]) -> Iterator[Sequence[DeadLetter]]:
    """Split letters, in their order, into chunks of bounded count and bytes; each has at least one letter."""
    first = size = 0
    for index, letter in enumerate(letters):
        letter_size = size_of(letter.record)
        if index > first and (index - first >= _CHUNK_LETTERS or size + letter_size > _CHUNK_BYTES):
            yield letters[first:index]
            first, size = index, 0
        size += letter_size
    if first < len(letters):
        yield letters[first:]


class DeadLetterPublisher:
    """Publishes dead letters and waits for their acknowledgement. It belongs to one event loop."""

    def __init__(self, kafka: KafkaSettings, updater: UpdaterSettings) -> None:
        self._kafka = kafka
        self._timeout_s = updater.dead_letter_timeout_ms / 1000
        self._producer: AIOKafkaProducer | None = None
        self._publishing = asyncio.Lock()
        """Held during a publication: a failure closes the producer, which must not lose another caller's letters."""

    async def publish(self, letters: Sequence[DeadLetter]) -> None:
        """Return once all replicas have acknowledged every letter that the cluster accepts.

        Letters are sent in chunks; ``updater.dead_letter_timeout_ms`` applies to each chunk. A letter that the cluster
        rejects for itself, such as for its size, is sent as a stub; if the stub is rejected too, the letter is only
        logged. Raises DeadLetterError when the cluster accepts nothing: it is unreachable, the topic is missing, or
        this login may not write. The first letter opens the connection.
        """
        for chunk in _chunks(letters):
            async with self._publishing:
                await self._publish_chunk(chunk)
            _log_letters(chunk)

    async def _publish_chunk(self, chunk: Sequence[DeadLetter]) -> None:
        rejected = await self._publish([(letter, letter_record(letter)) for letter in chunk])
        for letter, record in rejected:
            await self._publish_alone(letter, record)

    async def _publish_alone(self, letter: DeadLetter, record: LetterRecord) -> None:
        """Publish a letter that was rejected, perhaps because of another in its batch: unchanged, then as a stub."""
        for attempt in (record, stub_record(letter)):
            if not await self._publish([(letter, attempt)]):
                return
        _log.error(
            "a dead letter was rejected, and its record is skipped",
            topic=letter.record.topic,
            partition=letter.record.partition,
            offset=first_offset_of(letter.record),
            until=letter.record.offset,
            reason=letter.reason.value,
        )

    async def _publish(
        self, letters: Sequence[tuple[DeadLetter, LetterRecord]]
    ) -> list[tuple[DeadLetter, LetterRecord]]:
        """Publish letters, and return those that the cluster rejects for themselves. Raises DeadLetterError."""
        try:
            async with asyncio.timeout(self._timeout_s):
                producer = await self._connect()
                futures = [
                    await producer.send(
                        self._kafka.dead_letter_topic,
                        key=record.key,
                        value=record.value,
                        partition=letter.record.partition,
                        headers=record.headers,
                    )
                    for letter, record in letters
                ]
                outcomes = await asyncio.gather(*futures, return_exceptions=True)
            for outcome in outcomes:
                if isinstance(outcome, BaseException) and not _is_record_error(outcome):
                    raise outcome
        except (KafkaError, TimeoutError, OSError, AssertionError) as error:
            await self.close()
            raise DeadLetterError(
                f"{len(letters)} dead letters were not acknowledged by {self._kafka.dead_letter_topic} "
                f"({error or type(error).__name__}): create it with `lifeline topics create`, or check the cluster; "
                "the partition tries again from here"
            ) from error
        return [pair for pair, outcome in zip(letters, outcomes, strict=True) if isinstance(outcome, BaseException)]

    async def _connect(self) -> AIOKafkaProducer:
        if self._producer is None:
            producer = AIOKafkaProducer(
                **self._kafka.client_options(),
                # Not idempotent: a rejected letter would leave a gap in the producer's sequence numbers.
                acks="all",
                request_timeout_ms=self._kafka.request_timeout_ms,
                # A record of the largest size that the actions topic takes gets our headers as well.
                max_request_size=_MAX_REQUEST_BYTES,
                # A record that arrived compressed must not need more room here. Every client can read gzip.
                compression_type="gzip",
            )
            try:
                await producer.start()
            except BaseException:
                await producer.stop()
                raise
            self._producer = producer
        return self._producer

    async def close(self) -> None:
        """Disconnect. Idempotent."""
        producer, self._producer = self._producer, None
        if producer is not None:
            await end_within(producer.stop(), _CLOSE_S)


def _is_record_error(error: BaseException) -> bool:
    return isinstance(error, BrokerResponseError) and error.errno in _RECORD_ERRORS


def _log_letters(letters: Sequence[DeadLetter]) -> None:
    """Log the first letters one by one and count the others: a flood of bad records must not flood the log."""
    for letter in letters[:_LOGGED_LETTERS]:
        _log.warning(
            "dead letter",
            reason=letter.reason.value,
            partition=letter.record.partition,
            offset=first_offset_of(letter.record),
            why=letter.message,
        )
    if others := letters[_LOGGED_LETTERS:]:
        _log.warning(
            "dead letters",
            partition=others[0].record.partition,
            offset=first_offset_of(others[0].record),
            until=others[-1].record.offset,
            reasons=dict(Counter(letter.reason.value for letter in others)),
        )
