"""Reads the present content of a topic, from any offset to the end at that moment."""

import asyncio
import time
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from lifeline.core.kafka_cluster import addresses_of, check_brokers, check_reachable, cluster_error
from lifeline.core.kafka_errors import StalledReadError, TopicMismatchError
from lifeline.core.kafka_settings import KafkaSettings
from lifeline.stream.aio import end_within
from lifeline.stream.log_consumer import LogConsumer, cluster_of, partitions_of
from lifeline.stream.record import Record

_POLL_MS = 500
_FETCH_WAIT_MS = 10
_STOP_S = 5.0
_ResultT = TypeVar("_ResultT")


class TopicReader:
    """Reads partitions of one topic. `open_topic` creates it. It blocks, and needs a thread without an event loop."""

    def __init__(
        self, runner: asyncio.Runner, consumer: LogConsumer, kafka: KafkaSettings, topic: str, numbers: Sequence[int]
    ) -> None:
        self._runner, self._consumer, self._kafka = runner, consumer, kafka
        self._topic, self._numbers = topic, numbers

    def partitions(self, numbers: Sequence[int] = ()) -> list[int]:
        """Return `numbers`, or all partitions of the topic, ascending; raises TopicMismatchError for an unknown one."""
        for number in numbers:
            if number not in self._numbers:
                raise TopicMismatchError(
                    f"{self._topic} has no partition {number}: name one of 0 to {max(self._numbers)}"
                )
        return sorted(set(numbers) or self._numbers)

    def bounds(self, partition: int) -> tuple[int, int]:
        """Return the first offset of the log, and the offset after the last record."""
        tp = TopicPartition(self._topic, partition)
        first = self._run(self._consumer.beginning_offsets([tp]))[tp]
        return first, self._run(self._consumer.end_offsets([tp]))[tp]

    def offset_at(self, partition: int, timestamp_ms: int) -> int:
        """Return the first offset whose record has this time or a later one; the end of the log when none has."""
        tp = TopicPartition(self._topic, partition)
        offset = self._run(self._consumer.offsets_for_times({tp: timestamp_ms}))[tp]
        return self.bounds(partition)[1] if offset is None else int(offset.offset)

    def records(self, partition: int, start: int, end: int) -> Iterator[Record]:
        """Yield the records from `start` to before `end`; control records leave gaps.

        Raises ClusterUnreachableError, and StalledReadError when none arrives for ``kafka.request_timeout_ms``.
        """
        tp = TopicPartition(self._topic, partition)
        self._run(self._assign(tp, start))
        moved_at, position = time.monotonic(), start
        while position < end:
            fetched = self._run(self._consumer.getmany(tp, timeout_ms=_POLL_MS)).get(tp, [])
            previous, position = position, self._run(self._consumer.position(tp))
            if position > previous:
                moved_at = time.monotonic()
            elif time.monotonic() - moved_at > self._kafka.request_timeout_ms / 1000:
                check_reachable(self._kafka)
                raise StalledReadError(self._topic, partition, position, self._kafka.request_timeout_ms / 1000)
            yield from (record for record in fetched if record.offset < end)
        self._run(self._pause(tp))

    async def _pause(self, tp: TopicPartition) -> None:
        self._consumer.pause(tp)

    async def _assign(self, tp: TopicPartition, start: int) -> None:
        self._consumer.assign([tp])
        self._consumer.seek(tp, start)

    def _run(self, work: Coroutine[Any, Any, _ResultT]) -> _ResultT:
        return self._runner.run(work)


@contextmanager
def open_topic(kafka: KafkaSettings, topic: str, *, advice: str) -> Iterator[TopicReader]:
    """Yield a reader of a topic; `advice` ends the error message for a missing topic.

    Raises ClusterUnreachableError, TopicMismatchError.
    """
    check_reachable(kafka)
    with asyncio.Runner() as runner:
        try:
            consumer, numbers = runner.run(_connect(kafka, topic))
        except (KafkaError, OSError) as error:
            raise cluster_error(kafka, error) from error
        try:
            if not numbers:
                raise TopicMismatchError(f"topic {topic} does not exist: {advice}")
            yield TopicReader(runner, consumer, kafka, topic, numbers)
        except KafkaError as error:
            raise cluster_error(kafka, error) from error
        finally:
            runner.run(end_within(consumer.stop(), _STOP_S))


async def _connect(kafka: KafkaSettings, topic: str) -> tuple[LogConsumer, list[int]]:
    # A fetch that waits for records delays other requests to the same broker, such as that for the end of a log.
    consumer = LogConsumer(**kafka.consumer_options(), auto_offset_reset="earliest", fetch_max_wait_ms=_FETCH_WAIT_MS)
    try:
        await consumer.start()
        await asyncio.to_thread(check_brokers, kafka, addresses_of(cluster_of(consumer)))
        partitions = await partitions_of(consumer, topic)
    except BaseException:
        await end_within(consumer.stop(), _STOP_S)
        raise
    return consumer, [tp.partition for tp in partitions]


def read_topic(kafka: KafkaSettings, topic: str, *, advice: str) -> Iterator[Record]:
    """Yield every record of a topic's present content, partition after partition.

    Raises ClusterUnreachableError, TopicMismatchError.
    """
    with open_topic(kafka, topic, advice=advice) as reader:
        for number in reader.partitions():
            yield from reader.records(number, *reader.bounds(number))
