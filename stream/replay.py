"""Replay: read one partition's log from its start into a fresh store, by the rules of the live path."""

from collections.abc import Callable

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from store.partition import PartitionStore
from stream.decode import Rules, decode
from stream.errors import ClusterUnreachableError, PartitionLostError
from stream.settings import KafkaSettings
from stream.updater import apply_steps

_BATCH = 8_192


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
    each batch. Raises ClusterUnreachableError, and PartitionLostError when the log no longer starts early enough
    or ends before `until`.
    """
    partition = TopicPartition(kafka.actions_topic, store.partition)
    consumer = AIOKafkaConsumer(**kafka.consumer_options(), auto_offset_reset="none")
    try:
        await consumer.start()
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
        while store.applied_offset < until:
            fetched = await consumer.getmany(timeout_ms=1_000, max_records=_BATCH)
            records = [record for record in fetched.get(partition, ()) if record.offset <= until]
            if records:
                apply_steps(store, decode(records, rules).steps)
                progress(store.applied_offset)
            elif await consumer.position(partition) > until:
                # What is left up to `until` are control records, which have no value to apply.
                break
    except (KafkaError, OSError) as error:
        raise ClusterUnreachableError(kafka.bootstrap_servers, error) from error
    finally:
        await consumer.stop()
