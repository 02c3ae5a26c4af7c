"""Freshness: from an action's acknowledgement to a reply that has it, under a steady load, open loop."""

import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from benchmarks.store.workloads import START_MS, Items, user_names
from benchmarks.stream.environment import READY_S, open_environment
from lifeline.client import LifelineClient
from lifeline.core.sequence import SequenceQuery
from lifeline.core.vocabulary import Vocabulary
from lifeline.producer.producer import Delivery, LifelineProducer
from lifeline.v1.action_pb2 import Action

USERS = 2_000
SAMPLE_EVERY = 50


class Freshness(NamedTuple):
    """Milliseconds, and what was really published."""

    per_s: float
    samples: int
    p50_ms: float
    p99_ms: float


def freshness(bootstrap_servers: str, vocabulary: Vocabulary, *, per_s: int = 5_000, seconds: int = 60) -> Freshness:
    """Publish `per_s` actions a second for `seconds`, and ask for one in fifty as soon as it is acknowledged."""
    users = [user.decode() for user in user_names(USERS)]
    items = Items(np.random.default_rng(3)).draw(per_s).tolist()
    samples: list[Future[float]] = []
    with open_environment(bootstrap_servers, vocabulary) as environment, environment.node("freshness") as node:
        node.start()
        node.wait_ready(READY_S)
        with (
            LifelineClient(node.address, timeout_s=30) as client,
            LifelineProducer(environment.kafka, linger_ms=2) as producer,
            ThreadPoolExecutor(32) as pool,
        ):

            def sample(user: str, delivery: Delivery, acknowledged: float) -> float:
                client.get_sequence(user, SequenceQuery(newest=1), min_offset=delivery.result(0).offset)
                return (time.perf_counter() - acknowledged) * 1_000

            started = time.perf_counter()
            for number in range(per_s * seconds):
                ahead = started + number / per_s - time.perf_counter()
                if ahead > 0.001:
                    time.sleep(ahead)
                user = users[number * 7 % USERS]
                action = Action(
                    user_id=user, item_id=items[number % per_s], timestamp_ms=START_MS + number, action_type=1
                )
                delivery = producer.publish(action)
                if number % SAMPLE_EVERY == 0:
                    delivery.add_done_callback(
                        lambda done, user=user: samples.append(  # type: ignore[misc]
                            pool.submit(sample, user, done, time.perf_counter())
                        )
                    )
            producer.flush(60)
            rate = per_s * seconds / (time.perf_counter() - started)
            times = [future.result(60) for future in samples]
        node.stop()
    p50, p99 = np.percentile(times, [50, 99])
    return Freshness(rate, len(times), float(p50), float(p99))
