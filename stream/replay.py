"""Replay: read one partition's log from its start into a fresh store, by the rules of the live path.

`log_ranges` says what there is to replay, `replay` does it. A store that was left half way goes on where it stands.
"""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from lifeline.core.kafka_errors import ClusterUnreachableError, PartitionLostError, TopicMismatchError
from lifeline.core.kafka_settings import KafkaSettings
from lifeline.store.partition import PartitionStore
from lifeline.stream.aio import end_within
from lifeline.stream.apply import apply_steps
from lifeline.stream.decode import Rules, decode
from lifeline.stream.log_consumer import LogConsumer

_BATCH = 8_192
_POLL_MS = 1_000
_STOP_S = 5.0


class LogRange(NamedTuple):
    """What a replay of one partition would apply."""

    first: int
    """The first offset of the log."""
    until: int
    """The last offset to apply; below `first` when there is nothing."""


async def log_ranges(
    kafka: KafkaSettings, *, to_offset: int | None = None, to_timestamp_ms: int | None = None
) -> dict[int, LogRange]:
    """Return the range of each partition: to the end of the log, to an offset (included), or to before a time.

    Of a log with other times than its offsets' order the first record at or after `to_timestamp_ms` ends the range.
    Raises ClusterUnreachableError, TopicMismatchError.
    """
    async with _consumer(kafka) as consumer:
        if kafka.actions_topic not in await consumer.topics():
            raise TopicMismatchError(f"topic {kafka.actions_topic} does not exist: name another in kafka.actions_topic")
        partitions = [TopicPartition(kafka.actions_topic, number) for number in range(kafka.partitions)]
        first = await consumer.beginning_offsets(partitions)
        end = await consumer.end_offsets(partitions)
        if to_timestamp_ms is not None:
            found = await consumer.offsets_for_times(dict.fromkeys(partitions, to_timestamp_ms))
            end = {tp: end[tp] if found[tp] is None else found[tp].offset for tp in partitions}
        elif to_offset is not None:
            end = {tp: min(end[tp], to_offset + 1) for tp in partitions}
    return {tp.partition: LogRange(first[tp], end[tp] - 1) for tp in partitions}


async def replay(
    kafka: KafkaSettings,
    rules: Rules,
    store: PartitionStore,
    *,
    until: int,
    progress: Callable[[int], None] = lambda _: None,
) -> None:
    """Apply every record from the store's applied offset to `until`, both included in the end.

    Dead letters are passed over: they were published when they were met first. `progress` gets the offset after
    each batch. Raises ClusterUnreachableError, also when nothing comes for ``kafka.request_timeout_ms``, and
    PartitionLostError when the log no longer starts early enough
    or ends before `until`.
    """
    partition = TopicPartition(kafka.actions_topic, store.partition)
    async with _consumer(kafka) as consumer:
        consumer.assign([partition])
        start = store.applied_offset + 1
        first = (await consumer.beginning_offsets([partition]))[partition]
        end = (await consumer.end_offsets([partition]))[partition]
        if first > start or end <= until:
            raise PartitionLostError(
                f"the log of partition {store.partition} holds offsets {first} to {end - 1}, and {start} to {until} "
                "are needed: what retention took cannot be replayed; compare with a snapshot instead"
            )
        consumer.seek(partition, start)
        position, moved_at = start, time.monotonic()
        while store.applied_offset < until:
            fetched = await consumer.getmany(timeout_ms=_POLL_MS, max_records=_BATCH)
            before, position = position, await consumer.position(partition)
            if position > before:
                moved_at = time.monotonic()
            elif time.monotonic() - moved_at > kafka.request_timeout_ms / 1000:
                raise ClusterUnreachableError(kafka.bootstrap_servers, TimeoutError())
            records = [record for record in fetched.get(partition, ()) if record.offset <= until]
            if records:
                apply_steps(store, decode(records, rules).steps)
                progress(store.applied_offset)
            elif position > until:
                # What is left up to `until` are control records, which have no value to apply.
                break


@asynccontextmanager
async def _consumer(kafka: KafkaSettings) -> AsyncIterator[LogConsumer]:
    consumer = LogConsumer(**kafka.consumer_options(), auto_offset_reset="none")
    try:
        await consumer.start()
        yield consumer
    except (KafkaError, OSError) as error:
        raise ClusterUnreachableError(kafka.bootstrap_servers, error) from error
    finally:
        await end_within(consumer.stop(), _STOP_S)
