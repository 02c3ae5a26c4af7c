"""Dead letters: records that are not applied, kept whole where an operator can look at them.

A dead letter is the record itself: same partition number, key, value and headers, byte for byte. Behind its own
headers come those that Kafka Connect uses, and ours, all UTF-8 text: the reason, and the record's own timestamp. What
is too large for that, or cannot be read, is a stub: where it lies in the log, its length and SHA-256, its first KiB and
its first headers. A crash between the acknowledgement and the store's write publishes a dead letter twice; it is never
lost.
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
# What does not compress grows by a few hundred bytes.
_MAX_LETTER_BYTES: Final = _MAX_REQUEST_BYTES - 4_096
_HEADER_OVERHEAD: Final = 10
_STUB_HEADER_BYTES: Final = 4_096
_LOGGED_LETTERS: Final = 5
_REFUSALS: Final = frozenset({2, 10, 18, 32, 44, 76, 87})
"""Kafka's codes for what it holds against the records themselves: corrupt, too large, a list too large, a timestamp, a
policy, a compression, invalid. All others are the cluster's matter, or that of this login."""

_log = structlog.get_logger(__name__)


class Letter(NamedTuple):
    """What is published of a dead letter."""

    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]

    @property
    def bytes(self) -> int:
        """Return the bytes on the wire, before compression, or a little more."""
        headers = sum(len(name.encode()) + len(value or b"") + _HEADER_OVERHEAD for name, value in self.headers)
        return len(self.key or b"") + len(self.value or b"") + headers


def letter_of(dead: DeadLetter) -> Letter:
    """Return the record itself with the headers that say why, or its stub where that is too large or unreadable."""
    record = dead.record
    if isinstance(record, UnreadableRecords):
        return stub_of(dead)
    headers = [*record.headers, *error_headers(dead)]
    whole = Letter(record.key, record.value, headers)
    return whole if whole.bytes <= _MAX_LETTER_BYTES else stub_of(dead)


def stub_of(dead: DeadLetter) -> Letter:
    """Return the first KiB of a dead letter, its length and digest, and its first headers: bounded, whatever it is."""
    record = dead.record
    head: bytes | None
    if isinstance(record, UnreadableRecords):
        size, sha256, head = record.size, record.sha256, record.head
    else:
        data = record.value or b""
        size, sha256, head = len(data), hashlib.sha256(data).hexdigest(), record.value
    kept: list[tuple[str, bytes | None]] = []
    left = _STUB_HEADER_BYTES
    for name, value in record.headers:
        left -= len(name.encode()) + len(value or b"") + _HEADER_OVERHEAD
        if left < 0:
            kept.append((HEADERS_CUT, str(len(record.headers) - len(kept)).encode()))
            break
        kept.append((name, value))
    marks = [(STUB_BYTES, str(size)), (STUB_SHA256, sha256)]
    if first_offset_of(record) < record.offset:
        marks.append((STUB_UNTIL, str(record.offset)))
    headers = [*kept, *error_headers(dead), *((name, text.encode()) for name, text in marks)]
    key = None if record.key is None else record.key[:HEAD_BYTES]
    return Letter(key, None if head is None else head[:HEAD_BYTES], headers)


def error_headers(letter: DeadLetter) -> list[tuple[str, bytes]]:
    """Return the headers that say what went wrong, in their order."""
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
    """Cut letters, in their order, into chunks of bounded count and bytes; each has at least one."""
    first = size = 0
    for at, letter in enumerate(letters):
        letter_size = size_of(letter.record)
        if at > first and (at - first >= _CHUNK_LETTERS or size + letter_size > _CHUNK_BYTES):
            yield letters[first:at]
            first, size = at, 0
        size += letter_size
    if first < len(letters):
        yield letters[first:]


class DeadLetterPublisher:
    """Publishes dead letters and waits until they are safe. Lives in one event loop."""

    def __init__(self, kafka: KafkaSettings, updater: UpdaterSettings) -> None:
        self._kafka = kafka
        self._timeout_s = updater.dead_letter_timeout_ms / 1000
        self._producer: AIOKafkaProducer | None = None
        self._publishing = asyncio.Lock()
        """Held while letters are on their way: a failure ends the producer, which must not end those of others."""

    async def publish(self, letters: Sequence[DeadLetter]) -> None:
        """Return once every letter is acknowledged by all replicas, or is one that the cluster takes in no form.

        Raises DeadLetterError where the cluster takes nothing: it is away, the topic is missing, or this login may not
        write. Letters go in chunks, each with ``updater.dead_letter_timeout_ms`` of its own. What the cluster holds
        against a letter itself, such as its size, costs that letter alone: it goes as a stub, and where that is refused
        too, the log line is all that there is. It connects with the first letter: a node that meets none holds no
        producer.
        """
        for chunk in _chunks(letters):
            async with self._publishing:
                await self._publish_chunk(chunk)
            _log_letters(chunk)

    async def _publish_chunk(self, chunk: Sequence[DeadLetter]) -> None:
        refused = await self._publish([(dead, letter_of(dead)) for dead in chunk])
        for dead, letter in refused:
            await self._publish_alone(dead, letter)

    async def _publish_alone(self, dead: DeadLetter, letter: Letter) -> None:
        """Publish a letter that was refused, maybe for one beside it in a batch: as it is, and then as a stub."""
        for form in (letter, stub_of(dead)):
            if not await self._publish([(dead, form)]):
                return
        _log.error(
            "a dead letter was refused, and its record is passed over",
            topic=dead.record.topic,
            partition=dead.record.partition,
            offset=first_offset_of(dead.record),
            until=dead.record.offset,
            reason=dead.reason.value,
        )

    async def _publish(self, letters: Sequence[tuple[DeadLetter, Letter]]) -> list[tuple[DeadLetter, Letter]]:
        """Publish letters, and return those that the cluster holds something against. Raises DeadLetterError."""
        try:
            async with asyncio.timeout(self._timeout_s):
                producer = await self._connected()
                sent = [
                    await producer.send(
                        self._kafka.dead_letter_topic,
                        key=letter.key,
                        value=letter.value,
                        partition=dead.record.partition,
                        headers=letter.headers,
                    )
                    for dead, letter in letters
                ]
                outcomes = await asyncio.gather(*sent, return_exceptions=True)
            errors = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
            for error in errors:
                if not _is_refusal(error):
                    raise error
        except (KafkaError, TimeoutError, OSError, AssertionError) as error:
            await self.close()
            raise DeadLetterError(
                f"{len(letters)} dead letters were not acknowledged by {self._kafka.dead_letter_topic} "
                f"({error or type(error).__name__}): create it with `lifeline topics create`, or see to the cluster; "
                "the partition goes on from here"
            ) from error
        return [pair for pair, outcome in zip(letters, outcomes, strict=True) if isinstance(outcome, BaseException)]

    async def _connected(self) -> AIOKafkaProducer:
        if self._producer is None:
            producer = AIOKafkaProducer(
                **self._kafka.client_options(),
                # Not idempotent: a refused letter would be a hole in the sequence of those behind it.
                acks="all",
                request_timeout_ms=self._kafka.request_timeout_ms,
                # A record that just fits the actions topic comes back with our headers on it.
                max_request_size=_MAX_REQUEST_BYTES,
                # What arrived compressed must not need more room on its way back; every client reads this one.
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


def _is_refusal(error: BaseException) -> bool:
    return isinstance(error, BrokerResponseError) and error.errno in _REFUSALS


def _log_letters(letters: Sequence[DeadLetter]) -> None:
    """Log the first letters one by one and count the others: a flood of bad records must not become one of lines."""
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
