"""Dead letters: records that are not applied, kept whole where an operator can look at them.

A dead letter is the record itself: same partition number, key, value, timestamp and headers, byte for byte.
Behind its own headers come those that Kafka Connect uses, and one of ours, all UTF-8 text. A crash between
the acknowledgement and the store's write publishes a dead letter twice; it is never lost.
"""

import asyncio
from collections.abc import Iterator, Sequence
from typing import Final

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from stream.dead_letter_headers import CONNECT, REASON
from stream.decode import DeadLetter, DeadLetterReason
from stream.errors import DeadLetterError
from stream.record import size_of
from stream.settings import KafkaSettings, UpdaterSettings
from stream.stopping import end_within
from stream.topics import MAX_RECORD_BYTES

_STAGES: Final = {
    DeadLetterReason.OVERSIZED: "VALUE_CONVERTER",
    DeadLetterReason.UNDECODABLE: "VALUE_CONVERTER",
    DeadLetterReason.INVALID_USER_ID: "KEY_CONVERTER",
}
_EXCEPTIONS: Final = {DeadLetterReason.UNDECODABLE: "google.protobuf.message.DecodeError"}

_CHUNK_LETTERS: Final = 500
_CHUNK_BYTES: Final = 4 << 20
_CLOSE_S: Final = 1.0

_log = structlog.get_logger(__name__)


def error_headers(letter: DeadLetter) -> list[tuple[str, bytes]]:
    """Return the headers that say what went wrong, in their order."""
    record = letter.record
    texts = (
        (CONNECT + "topic", record.topic),
        (CONNECT + "partition", str(record.partition)),
        (CONNECT + "offset", str(record.offset)),
        (CONNECT + "stage", _STAGES.get(letter.reason, "TASK_PUT")),
        (CONNECT + "exception.class.name", _EXCEPTIONS.get(letter.reason, "stream.errors.InvalidActionError")),
        (CONNECT + "exception.message", letter.message),
        (REASON, letter.reason.value),
    )
    return [(name, text.encode()) for name, text in texts]


def _chunks(letters: Sequence[DeadLetter]) -> Iterator[Sequence[DeadLetter]]:
    """Cut letters, in their order, into chunks of bounded count and bytes; each has at least one."""
    first = size = 0
    for at, letter in enumerate(letters):
        one = size_of(letter.record)
        if at > first and (at - first >= _CHUNK_LETTERS or size + one > _CHUNK_BYTES):
            yield letters[first:at]
            first, size = at, 0
        size += one
    if first < len(letters):
        yield letters[first:]


class DeadLetterPublisher:
    """Publishes dead letters and waits until they are safe. Lives in one event loop."""

    def __init__(self, kafka: KafkaSettings, updater: UpdaterSettings) -> None:
        self._kafka = kafka
        self._timeout_s = updater.dead_letter_timeout_ms / 1000
        self._producer: AIOKafkaProducer | None = None

    async def publish(self, letters: Sequence[DeadLetter]) -> None:
        """Return once every letter is acknowledged by all replicas. Raises DeadLetterError.

        They go in chunks, each with ``updater.dead_letter_timeout_ms`` of its own. It connects with the first
        letter: a node that meets none holds no producer.
        """
        for chunk in _chunks(letters):
            await self._publish(chunk)

    async def _publish(self, letters: Sequence[DeadLetter]) -> None:
        topic = self._kafka.dead_letter_topic
        try:
            async with asyncio.timeout(self._timeout_s):
                producer = await self._connected()
                sent = [
                    await producer.send(
                        topic,
                        key=letter.record.key,
                        value=letter.record.value,
                        partition=letter.record.partition,
                        timestamp_ms=max(letter.record.timestamp, 0),
                        headers=[*letter.record.headers, *error_headers(letter)],
                    )
                    for letter in letters
                ]
                await asyncio.gather(*sent)
        except (KafkaError, TimeoutError, OSError, AssertionError) as error:
            raise DeadLetterError(
                f"{len(letters)} dead letters were not acknowledged by {topic} ({error or type(error).__name__}): "
                "create it with `lifeline topics create`, or see to the cluster; the node goes on from here"
            ) from error
        for letter in letters:
            _log.warning(
                "dead letter",
                reason=letter.reason.value,
                partition=letter.record.partition,
                offset=letter.record.offset,
                why=letter.message,
            )

    async def _connected(self) -> AIOKafkaProducer:
        if self._producer is None:
            producer = AIOKafkaProducer(
                **self._kafka.client_options(),
                acks="all",
                enable_idempotence=True,
                request_timeout_ms=self._kafka.request_timeout_ms,
                # A record that just fits the actions topic comes back with our headers on it.
                max_request_size=MAX_RECORD_BYTES + (1 << 20),
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
