"""Soak: half an hour of steady load on users at their cap, to measure memory growth."""

import threading
import time
from typing import NamedTuple

import numpy as np

from benchmarks.store.workloads import HOUR_MS, Items, user_names, zipf
from benchmarks.stream.environment import READY_S, open_environment, rss_mib
from benchmarks.stream.load import load
from lifeline.client import LifelineClient
from lifeline.core.sequence import SequenceQuery
from lifeline.core.vocabulary import Vocabulary
from lifeline.producer.producer import LifelineProducer
from lifeline.v1.action_pb2 import Action

USERS = 40
HISTORY = 17_000
_SAMPLE_S = 2.0
_READS_A_SAMPLE = 5


class Soak(NamedTuple):
    """Memory of the node, and the published rate."""

    growth_percent: float
    """The median of the last third above that of the middle one."""
    rss_mib: float
    """Median of the last third."""
    per_s: float


def soak(bootstrap_servers: str, vocabulary: Vocabulary, *, per_s: int = 3_000, seconds: int = 1_800) -> Soak:
    """Publish `per_s` actions a second for `seconds`, read whole histories meanwhile, and watch the memory."""
    workload = zipf(USERS, HISTORY)
    newest_ms = int(workload.timestamp_ms.max())
    users = [user.decode() for user in user_names(USERS)]
    items = Items(np.random.default_rng(3)).draw(1 << 16).tolist()
    sampled: list[float] = []
    done = threading.Event()
    with open_environment(bootstrap_servers, vocabulary) as environment:
        load(environment.kafka, workload)
        with environment.node("soak") as node:
            node.start()
            node.wait_ready(READY_S)

            def watch() -> None:
                with LifelineClient(node.address, timeout_s=30) as client:
                    at = 0
                    while not done.wait(_SAMPLE_S):
                        for _ in range(_READS_A_SAMPLE):
                            client.get_sequence(users[at % USERS], SequenceQuery())
                            at += 1
                        sampled.append(rss_mib(node.pid))

            watching = threading.Thread(target=watch)
            watching.start()
            try:
                with LifelineProducer(environment.kafka, linger_ms=5) as producer:
                    started = time.perf_counter()
                    for number in range(per_s * seconds):
                        ahead = started + number / per_s - time.perf_counter()
                        if ahead > 0.001:
                            time.sleep(ahead)
                        producer.publish(
                            Action(
                                user_id=users[number % USERS],
                                item_id=items[number & 0xFFFF],
                                timestamp_ms=newest_ms + HOUR_MS + number,
                                action_type=1 + number % 4,
                                surface=1,
                            )
                        )
                    producer.flush(60)
                    rate = per_s * seconds / (time.perf_counter() - started)
            finally:
                done.set()
                watching.join()
            node.stop()
    _, middle, last = (float(np.median(part)) for part in np.array_split(np.array(sampled), 3))
    return Soak(100 * (last / middle - 1), last, rate)
