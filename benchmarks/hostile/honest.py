"""The honest side: a producer that records acknowledged actions, and a reader that records latencies."""

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, NamedTuple

import numpy as np

from benchmarks.hostile.child import Control
from benchmarks.hostile.pace import due_times
from benchmarks.hostile.target import Target
from lifeline.client import LifelineClient, LifelineError
from lifeline.core.actions import Kind
from lifeline.core.kafka_errors import PublishError
from lifeline.core.kafka_settings import KafkaSettings
from lifeline.core.sequence import SequenceQuery
from lifeline.producer.producer import Delivery, LifelineProducer
from lifeline.v1.action_pb2 import Action

USERS: Final = 200
PUBLISHED_PER_S: Final = 500
READS_PER_S: Final = 100
FRESH_EVERY: Final = 50
"""One read of this many demands the newest acknowledged action."""
TIMEOUT_S: Final = 10.0
_NEWEST: Final = 100
_THREADS: Final = 48


class Read(NamedTuple):
    """One read."""

    due: float
    """The time at which it was due, by `time.monotonic`, which all processes share."""
    seconds: float
    """From the due time to the answer; at least `TIMEOUT_S` if it failed."""
    fresh: bool
    """Whether it demanded the newest action."""
    failure: str
    """The error; empty if it succeeded."""


class HonestResult(NamedTuple):
    """The results of the honest side."""

    reads: list[Read]
    acknowledged: dict[str, list[int]]
    """The items of each user's acknowledged actions, all different."""
    ends: dict[int, int]
    """The highest acknowledged offset of each partition."""
    refused: int
    """Actions that Kafka did not acknowledge; the node is not involved in that."""


def honest_user(number: int) -> str:
    """Return a user id that no attack uses."""
    return f"honest-{number % USERS:03d}"


class _Acknowledged:
    """Acknowledged actions; thread-safe."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.acknowledged: dict[str, list[int]] = {}
        self.ends: dict[int, int] = {}
        self.refused = 0
        self.newest: tuple[str, int] | None = None

    def take(self, user: str, item_id: int, delivery: Delivery) -> None:
        try:
            at = delivery.result(0)
        except PublishError:
            with self.lock:
                self.refused += 1
            return
        with self.lock:
            self.acknowledged.setdefault(user, []).append(item_id)
            self.ends[at.partition] = max(self.ends.get(at.partition, -1), at.offset)
            self.newest = user, at.offset


def honest(target: Target, control: Control) -> HonestResult:
    """Publish and read until the end."""
    kafka = KafkaSettings(
        bootstrap_servers=target.bootstrap_server, actions_topic=target.actions_topic, items_topic=target.items_topic
    )
    newest = _Acknowledged()
    reads: list[Read] = []
    with (
        LifelineProducer(kafka, linger_ms=5) as producer,
        LifelineClient(target.grpc_address, timeout_s=TIMEOUT_S) as client,
        ThreadPoolExecutor(_THREADS) as pool,
    ):

        def publish() -> None:
            for number, _ in enumerate(due_times(PUBLISHED_PER_S, control)):
                user, item_id = honest_user(number), number + 1
                action = Action(
                    user_id=user, item_id=item_id, timestamp_ms=time.time_ns() // 1_000_000, action_type=1 + number % 4
                )
                delivery = producer.publish(action)
                delivery.add_done_callback(
                    lambda done, user=user, item_id=item_id: newest.take(user, item_id, done)  # type: ignore[misc]
                )

        def read(due: float, user: str, min_offset: int | None) -> None:
            failure = ""
            left_s = due + TIMEOUT_S - time.monotonic()
            try:
                if left_s > 0:
                    client.get_sequence(user, SequenceQuery(newest=_NEWEST), min_offset=min_offset, timeout_s=left_s)
                else:
                    failure = "earlier reads took too long"
            except LifelineError as error:
                failure = str(error)
            seconds = time.monotonic() - due
            reads.append(Read(due, max(seconds, TIMEOUT_S * bool(failure)), min_offset is not None, failure))

        control.begin()
        publishing = threading.Thread(target=publish)
        publishing.start()
        for number, due in enumerate(due_times(READS_PER_S, control)):
            after = newest.newest if number % FRESH_EVERY == 0 else None
            user, min_offset = after or (honest_user(number * 7), None)
            pool.submit(read, due, user, min_offset)
        publishing.join()
        producer.flush(60)
    return HonestResult(reads, newest.acknowledged, newest.ends, newest.refused)


def lost(result: HonestResult, address: str, target: Target, timeout_s: float) -> int:
    """Return the number of acknowledged actions that a node does not return once it has applied them all.

    Actions that cannot be read within `timeout_s` count as lost.
    """
    deadline = time.monotonic() + timeout_s
    missing = 0
    with LifelineClient(address, timeout_s=TIMEOUT_S) as client:
        for user, items in result.acknowledged.items():
            end = result.ends[target.partition_of(user.encode())]
            missing += len(set(items) - _stored(client, user, end, deadline))
    return missing


def _stored(client: LifelineClient, user: str, min_offset: int, deadline: float) -> set[int]:
    while True:
        left_s = deadline - time.monotonic()
        try:
            answer = client.get_sequence(user, min_offset=min_offset, timeout_s=max(left_s, 1.0))
        except LifelineError:
            if left_s <= 0:
                return set()
            time.sleep(0.2)
            continue
        item_id = answer.sequences[Kind.EXPLICIT].item_id
        return set() if item_id is None else set(item_id.tolist())


def percentile_ms(reads: Sequence[Read], share: float) -> float:
    """Return a percentile of the latencies in ms; without reads, the timeout."""
    return 1_000 * (float(np.percentile([read.seconds for read in reads], share)) if reads else TIMEOUT_S)


def within(reads: Sequence[Read], start: float, end: float, *, fresh: bool) -> list[Read]:
    """Return the reads that were due from `start` to `end`, either the fresh ones or the others."""
    return [read for read in reads if start <= read.due < end and read.fresh == fresh]
