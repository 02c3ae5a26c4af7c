"""What is published meanwhile: actions of every sort, seeded, at a steady rate from a thread of its own."""

import random
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Self

from kafka import KafkaProducer
from kafka.errors import KafkaError
from kafka.partitioner.default import murmur2

from lifeline.core.kafka_settings import KafkaSettings
from lifeline.v1.action_pb2 import Action

START_MS = 1_700_000_000_000
USERS = 60
_STEP_MS = 20_000
_DAY_MS = 86_400_000
_ITEMS = 500
_FAR_FUTURE_MS = 32_503_680_000_000
_REPEATS = 64
_PAUSE_S = 0.02
_DELIVERY_S = 120.0


class Sent(NamedTuple):
    """One record to publish."""

    key: bytes
    value: bytes | None
    partition: int | None = None
    """Where it goes against its key's hash."""


def traffic(seed: int, partitions: int, users: int = USERS) -> Iterator[Sent]:
    """Yield records without end: most are good; some are late, repeated, framed, erasures, or bad in some way."""
    rng = random.Random(seed)
    lately: deque[Sent] = deque(maxlen=_REPEATS)
    at_ms = START_MS
    while True:
        at_ms += rng.randrange(2 * _STEP_MS)
        user = f"user-{int(rng.paretovariate(0.7)) % users}"
        key = user.encode()
        action = Action(
            user_id=user,
            item_id=rng.randrange(1, _ITEMS) if rng.random() < 0.9 else rng.getrandbits(64),
            timestamp_ms=at_ms,
            action_type=rng.choice((1, 1, 1, 2, 2, 3, 4, 5, 5)),
            surface=rng.randrange(4),
        )
        draw = rng.random()
        if draw < 0.06:
            action.timestamp_ms -= rng.randrange(3 * _DAY_MS)
        elif draw < 0.065:
            # Several events of one moment.
            action.timestamp_ms = at_ms = at_ms - at_ms % 1_000
        sent = Sent(key, action.SerializeToString())
        if 0.07 <= draw < 0.1 and lately:
            sent = rng.choice(lately)
        elif draw < 0.11:
            sent = Sent(key, rng.choice((b"\x00\0\0\0\x2a\x00", b"\x00\0\0\0\x2a\x02\x00")) + (sent.value or b""))
        elif draw < 0.113:
            sent = Sent(key, None)
        elif draw < 0.123:
            sent = _bad(rng, sent, action, partitions)
        lately.append(sent)
        yield sent


def _bad(rng: random.Random, sent: Sent, action: Action, partitions: int) -> Sent:
    match rng.randrange(7):
        case 0:
            return Sent(sent.key, b"\xff\xfe no action")
        case 1:
            return sent._replace(partition=((murmur2(sent.key) & 0x7FFFFFFF) + 1) % partitions)
        case 2:
            action.timestamp_ms = _FAR_FUTURE_MS
        case 3:
            action.action_type = 60
        case 4:
            action.surface = 200
        case 5:
            action.user_id = "another"
        case 6:
            action.timestamp_ms = 0
    return Sent(sent.key, action.SerializeToString())


class Publisher:
    """Publishes traffic, now or steadily; what the cluster does not take at once the library sends again."""

    def __init__(self, kafka: KafkaSettings, seed: int, users: int = USERS) -> None:
        self._topic, self._partitions = kafka.actions_topic, kafka.partitions
        self._records = traffic(seed, kafka.partitions, users)
        self._lock = threading.Lock()
        self._producer = KafkaProducer(
            bootstrap_servers=kafka.servers,
            acks="all",
            enable_idempotence=True,
            linger_ms=5,
            delivery_timeout_ms=int(1_000 * _DELIVERY_S),
            request_timeout_ms=10_000,
            metrics_enabled=False,
        )

    def send(self, count: int) -> None:
        """Publish `count` records, and return once all are acknowledged."""
        futures = [self._send() for _ in range(count)]
        self._producer.flush(_DELIVERY_S)
        for future in futures:
            future.get(_DELIVERY_S)

    @contextmanager
    def steady(self, per_s: int) -> Iterator[None]:
        """Publish `per_s` records a second for as long as the block lasts; all are acknowledged behind it."""
        done = threading.Event()
        sent: list[Any] = []
        failed: list[BaseException] = []

        def run() -> None:
            started = time.monotonic()
            try:
                while not done.wait(_PAUSE_S):
                    due = int((time.monotonic() - started) * per_s) - len(sent)
                    sent.extend(self._send() for _ in range(due))
            except KafkaError as error:
                failed.append(error)

        thread = threading.Thread(target=run, name="publisher", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join(_DELIVERY_S)
        if failed:
            raise failed[0]
        self._producer.flush(_DELIVERY_S)
        for future in sent:
            future.get(_DELIVERY_S)

    def _send(self) -> Any:
        with self._lock:
            sent = next(self._records)
        partition = (murmur2(sent.key) & 0x7FFFFFFF) % self._partitions if sent.partition is None else sent.partition
        return self._producer.send(self._topic, key=sent.key, value=sent.value, partition=partition)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._producer.close(_DELIVERY_S)
