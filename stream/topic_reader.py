"""A topic read once, as it is now: from any offset to where it ended when it was asked."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from stream.cluster import check_reachable
from stream.errors import ClusterUnreachableError, TopicMismatchError
from stream.record import Record
from stream.settings import KafkaSettings
from stream.topics import MAX_RECORD_BYTES

_POLL_MS = 500


class TopicReader:
    """Reads partitions of one topic. Get it from `reading`."""

    def __init__(self, consumer: Any, kafka: KafkaSettings, topic: str, advice: str) -> None:  # noqa: ANN401
        self._consumer, self._kafka, self._topic, self._advice = consumer, kafka, topic, advice

    def partitions(self, wanted: Sequence[int] = ()) -> list[int]:
        """Return the topic's partitions, or those that are wanted of them, ascending; raises TopicMismatchError."""
        there = self._consumer.partitions_for_topic(self._topic) or set()
        if not there:
            raise TopicMismatchError(f"topic {self._topic} does not exist: {self._advice}")
        for number in wanted:
            if number not in there:
                raise TopicMismatchError(f"{self._topic} has no partition {number}: name one of 0 to {max(there)}")
        return sorted(set(wanted) or there)

    def bounds(self, partition: int) -> tuple[int, int]:
        """Return the first offset that is there, and the one behind the last."""
        tp = TopicPartition(self._topic, partition)
        return self._consumer.beginning_offsets([tp])[tp], self._consumer.end_offsets([tp])[tp]

    def records(self, partition: int, start: int, end: int) -> Iterator[Record]:
        """Yield the records from `start` to below `end`; control records leave gaps."""
        tp = TopicPartition(self._topic, partition)
        self._consumer.assign([tp])
        self._consumer.seek(tp, start)
        moved_at = time.monotonic()
        while (position := self._consumer.position(tp)) < end:
            fetched = self._consumer.poll(timeout_ms=_POLL_MS).get(tp, [])
            if self._consumer.position(tp) > position:
                moved_at = time.monotonic()
            elif time.monotonic() - moved_at > self._kafka.request_timeout_ms / 1000:
                raise ClusterUnreachableError(self._kafka.bootstrap_servers, TimeoutError())
            yield from (record for record in fetched if record.offset < end)


@contextmanager
def reading(kafka: KafkaSettings, topic: str, *, advice: str) -> Iterator[TopicReader]:
    """Give a reader of a topic; `advice` says what to do where it does not exist.

    Raises ClusterUnreachableError.
    """
    check_reachable(kafka)
    try:
        consumer = KafkaConsumer(
            **kafka.client_options(),
            enable_auto_commit=False,
            isolation_level="read_committed",
            max_partition_fetch_bytes=2 * MAX_RECORD_BYTES,
        )
    except (KafkaError, OSError) as error:
        raise ClusterUnreachableError(kafka.bootstrap_servers, error) from error
    try:
        yield TopicReader(consumer, kafka, topic, advice)
    except KafkaError as error:
        raise ClusterUnreachableError(kafka.bootstrap_servers, error) from error
    finally:
        consumer.close()


def read_topic(kafka: KafkaSettings, topic: str, *, advice: str) -> Iterator[Record]:
    """Yield every record that is in a topic now, partition after partition.

    Raises ClusterUnreachableError, TopicMismatchError.
    """
    with reading(kafka, topic, advice=advice) as reader:
        for number in reader.partitions():
            yield from reader.records(number, *reader.bounds(number))
