"""Freshness: from an action's acknowledgement to a reply that has it, under a steady load, open loop."""

import time
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from lifeline.client import LifelineClient
from lifeline.core.kafka_settings import KafkaSettings
from lifeline.core.sequence import SequenceQuery
from lifeline.producer.producer import Delivery, LifelineProducer
from lifeline.v1.action_pb2 import Action

_READERS = 32


class Freshness(NamedTuple):
    """What was really published a second, and the times of the sampled actions in milliseconds."""

    per_s: float
    samples: int
    p50_ms: float
    p99_ms: float


def measure_freshness(
    address: str, kafka: KafkaSettings, actions: Iterable[Action], *, per_s: int, sample_every: int, linger_ms: int
) -> Freshness:
    """Publish `actions` at a steady rate; read every `sample_every`th at its node as soon as it is acknowledged."""
    samples: list[Future[float]] = []
    with (
        LifelineClient(address, timeout_s=30) as client,
        LifelineProducer(kafka, linger_ms=linger_ms) as producer,
        ThreadPoolExecutor(_READERS) as pool,
    ):

        def sample(user: str, delivery: Delivery, acknowledged: float) -> float:
            client.get_sequence(user, SequenceQuery(newest=1), min_offset=delivery.result(0).offset)
            return (time.perf_counter() - acknowledged) * 1_000

        published = 0
        started = time.perf_counter()
        for action in actions:
            ahead = started + published / per_s - time.perf_counter()
            if ahead > 0.001:
                time.sleep(ahead)
            delivery = producer.publish(action)
            if published % sample_every == 0:
                delivery.add_done_callback(
                    lambda done, user=action.user_id: samples.append(  # type: ignore[misc]
                        pool.submit(sample, user, done, time.perf_counter())
                    )
                )
            published += 1
        producer.flush(60)
        rate = published / (time.perf_counter() - started)
        times = [future.result(60) for future in samples]
    p50, p99 = np.percentile(times, [50, 99])
    return Freshness(rate, len(times), float(p50), float(p99))
