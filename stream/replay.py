"""Replays the log of one partition into a store, by the rules of the live path.

`log_ranges` returns the offsets to replay, and `replay` applies them. It starts after the store's applied offset, so it
also completes a store that an interrupted replay left.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from lifeline.core.kafka_cluster import addresses_of, check_brokers, check_reachable, cluster_error
from lifeline.core.kafka_errors import PartitionLostError, StalledReadError, TopicMismatchError
from lifeline.core.kafka_settings import KafkaSettings
from lifeline.store.partition import PartitionStore
from lifeline.stream.aio import end_within
from lifeline.stream.apply import apply_steps
from lifeline.stream.decode import Rules, decode
from lifeline.stream.log_consumer import LogConsumer, cluster_of

_BATCH = 8_192
_POLL_MS = 1_000
_STOP_S = 5.0


class LogRange(NamedTuple):
    """The offsets of one partition that a replay would apply."""

    first: int
    """The first offset of the log."""
    until: int
    """The last offset to apply; below `first` when there is nothing."""


async def log_ranges(
    kafka: KafkaSettings, *, to_offset: int | None = None, to_timestamp_ms: int | None = None
) -> dict[int, LogRange]:
    """Return the range of each partition, up to the end of the log, an offset (included), or a time (excluded).

    The first record at or after `to_timestamp_ms` ends the range, even if later records have earlier times. Raises
    ClusterUnreachableError, TopicMismatchError.
    """
    async with _consumer(kafka) as consumer:
        if kafka.actions_topic not in await consumer.topics():
            raise TopicMismatchError(f"topic {kafka.actions_topic} does not exist: correct kafka.actions_topic")
        partitions = [TopicPartition(kafka.actions_topic, number) for number in range(kafka.partitions)]
        first = await consumer.beginning_offsets(partitions)
        end = await consumer.end_offsets(partitions)
        if to_timestamp_ms is not None:
            at_time = await consumer.offsets_for_times(dict.fromkeys(partitions, to_timestamp_ms))
            end = {tp: end[tp] if at_time[tp] is None else at_time[tp].offset for tp in partitions}
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
    """Apply every record after the store's applied offset, up to and including `until`.

    Dead letters are skipped: the live path has published them. `progress` gets the applied offset after each batch.
    Raises ClusterUnreachableError, StalledReadError when no record arrives for ``kafka.request_timeout_ms``, and
    PartitionLostError when the log starts after the first needed offset or ends before `until`.
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
                "are needed: check that this is the right topic; if its retention removed records, restore a newer "
                "snapshot and replay from there"
            )
        consumer.seek(partition, start)
        position, moved_at = start, time.monotonic()
        while store.applied_offset < until:
            fetched = await consumer.getmany(timeout_ms=_POLL_MS, max_records=_BATCH)
            previous, position = position, await consumer.position(partition)
            if position > previous:
                moved_at = time.monotonic()
            elif time.monotonic() - moved_at > kafka.request_timeout_ms / 1000:
                await asyncio.to_thread(check_reachable, kafka)
                raise StalledReadError(kafka.actions_topic, store.partition, position, kafka.request_timeout_ms / 1000)
            records = [record for record in fetched.get(partition, ()) if record.offset <= until]
            if records:
                apply_steps(store, decode(records, rules).steps)
                progress(store.applied_offset)
            elif position > until:
                # The rest up to `until` are control records, which change no state.
                break


@asynccontextmanager
async def _consumer(kafka: KafkaSettings) -> AsyncIterator[LogConsumer]:
    consumer = LogConsumer(**kafka.consumer_options(), auto_offset_reset="none")
    try:
        try:
            await consumer.start()
        except OSError as error:
            # Later ones are not of the connection: a full disk, for example.
            raise cluster_error(kafka, error) from error
        await asyncio.to_thread(check_brokers, kafka, addresses_of(cluster_of(consumer)))
        yield consumer
    except KafkaError as error:
        raise cluster_error(kafka, error) from error
    finally:
        await end_within(consumer.stop(), _STOP_S)
