"""Millions of actions in a topic within a minute: whole record batches, made before they are sent."""

import asyncio
from collections.abc import Iterator

import numpy as np
from aiokafka import AIOKafkaProducer
from numpy.typing import NDArray

from benchmarks.store.workloads import Workload
from lifeline.core.kafka_settings import KafkaSettings
from lifeline.core.partitioner import partitions_of
from lifeline.v1.action_pb2 import Action

_BATCH_BYTES = 256 << 10
_MAX_IN_FLIGHT = 16


def load(kafka: KafkaSettings, workload: Workload) -> None:
    """Publish every action, in its order within each partition; returns once all are acknowledged."""
    asyncio.run(_load(kafka, workload))


def values(workload: Workload, rows: NDArray[np.int64]) -> Iterator[tuple[bytes, bytes]]:
    """Yield the key and the value of the records of `rows`."""
    columns = (column[rows].tolist() for column in (workload.user_number, workload.timestamp_ms, workload.item_id))
    names = [user.decode() for user in workload.user_ids]
    for user, timestamp_ms, item_id, code in zip(*columns, workload.code[rows].tolist(), strict=True):
        action = Action(
            user_id=names[user], item_id=item_id, timestamp_ms=timestamp_ms, action_type=code >> 8, surface=code & 0xFF
        )
        yield workload.user_ids[user], action.SerializeToString()


async def _load(kafka: KafkaSettings, workload: Workload) -> None:
    partition = partitions_of(workload.user_ids, kafka.partitions)[workload.user_number]
    producer = AIOKafkaProducer(
        **kafka.client_options(), acks="all", max_batch_size=_BATCH_BYTES, max_request_size=4 * _BATCH_BYTES
    )
    await producer.start()
    try:
        for number in range(kafka.partitions):
            waiting: list[asyncio.Future[object]] = []
            batch = producer.create_batch()
            for key, value in values(workload, np.flatnonzero(partition == number)):
                if batch.append(key=key, value=value, timestamp=None) is not None:
                    continue
                waiting.append(await producer.send_batch(batch, kafka.actions_topic, partition=number))
                if len(waiting) >= _MAX_IN_FLIGHT:
                    await waiting.pop(0)
                batch = producer.create_batch()
                batch.append(key=key, value=value, timestamp=None)
            if batch.record_count():
                waiting.append(await producer.send_batch(batch, kafka.actions_topic, partition=number))
            await asyncio.gather(*waiting)
    finally:
        await producer.stop()
