"""Hostile records: mutated actions and items, malformed batches, decompression bombs, aborted transactions.

The attacker can only write to the topics. The share of bad records of a partition stays below `updater.max_bad_share`,
because above it the node stops the partition by design.
"""

import random
import time
from collections import Counter
from contextlib import suppress
from typing import Any, Final

from kafka import KafkaProducer
from kafka.errors import KafkaError

from benchmarks.hostile.batch import Outcome, RawProducer, batch, record
from benchmarks.hostile.child import Control
from benchmarks.hostile.crafted import bombs, compressed, plain
from benchmarks.hostile.mutation import mutate
from benchmarks.hostile.pace import paced
from benchmarks.hostile.target import HOSTILE_USERS, Target, hostile_user
from lifeline.core.sequence import EMBEDDING_DIM
from lifeline.v1.action_pb2 import Action
from lifeline.v1.item_pb2 import Item

RECORDS_PER_S: Final = 100
BOMB_EVERY: Final = 2 * RECORDS_PER_S
TRANSACTION_EVERY: Final = RECORDS_PER_S
OVERSIZED_EVERY: Final = RECORDS_PER_S
ERASURE_EVERY: Final = RECORDS_PER_S // 5
"""An erasure is a valid record, and the most expensive one: the partition's files are rewritten without the user."""
CRAFTED_EVERY: Final = 5
ITEM_EVERY: Final = 7
OVERSIZED_BYTES: Final = 1 << 20
_DAY_MS: Final = 86_400_000
_TIMES_MS: Final = (0, 1, -1, (1 << 63) - 1, -(1 << 63), 1 << 62)
_TRANSACTION: Final = 5

Record = tuple[bytes | None, bytes | None]


def publish_records(target: Target, control: Control) -> Counter[str]:
    """Publish until the end; return the number of records of each sort, accepted and refused."""
    with RawProducer(target.bootstrap_server) as producer:
        attack = _Attack(target, producer)
        control.begin()
        for number in paced(RECORDS_PER_S, control):
            attack.step(number)
        attack.close()
    return attack.done


def odd_action(rng: random.Random, user: str, now_ms: int) -> Record:
    """Return the key and the value of a malformed action, or of a valid but unusual one."""
    action = Action(user_id=user, item_id=rng.getrandbits(64), timestamp_ms=now_ms, action_type=1 + rng.randrange(5))
    good = action.SerializeToString()
    match rng.randrange(11):
        case 0:
            return None, good
        case 1:
            return rng.choice((b"", b"\xff\xfe", b"k" * 1_000, b"another", user.encode()[:-1])), good
        case 2:
            action.timestamp_ms = rng.choice((*_TIMES_MS, now_ms + _DAY_MS // 2, now_ms + 30 * _DAY_MS))
        case 3:
            action.action_type = rng.choice((0, 6, 63, 64, 65, 255, 256, 1 << 16, (1 << 32) - 1))
        case 4:
            action.surface = rng.choice((200, 255, 256, (1 << 32) - 1))
        case 5:
            action.event_id = "e" * rng.choice((1, 127, 128, 16_384, 60_000))
        case 6:
            return user.encode(), rng.choice((b"\x00", b"\x00\0\0\0\x2a", b"\x00\0\0\0\x2a\x04", b"")) + good
        case _:
            return user.encode(), mutate(rng, good)
    return user.encode(), action.SerializeToString()


def odd_item(rng: random.Random) -> Record:
    """Return the key and the value of a malformed item, or of a valid one."""
    item_id = rng.getrandbits(64)
    size = rng.choice((EMBEDDING_DIM, EMBEDDING_DIM, 0, 31, 33, 100_000))
    item = Item(item_id=item_id, embedding=rng.randbytes(size), embedding_version=rng.getrandbits(32))
    good, key = item.SerializeToString(), str(item_id).encode()
    match rng.randrange(5):
        case 0:
            return rng.choice((b"", b"007", b"-1", b"9" * 30, "٣".encode(), b"1e3", b"\xff")), good
        case 1:
            return key, None
        case 2:
            return key, good
        case _:
            return key, mutate(rng, good)


class _Attack:
    """Publishes the hostile records in turn."""

    def __init__(self, target: Target, producer: RawProducer, seed: int = 15) -> None:
        self._target, self._producer = target, producer
        self._rng = random.Random(seed)
        self._bombs = list(bombs(hostile_user(0).encode(), _now_ms()).items())
        # Built beforehand, because building costs more than publishing.
        users = {self._partition_of(user.encode()): user for user in map(hostile_user, range(HOSTILE_USERS))}
        self._crafted = [(partition, _crafted(user, _now_ms())) for partition, user in sorted(users.items())]
        self._transactions: Any = None
        self.done: Counter[str] = Counter()

    def step(self, number: int) -> None:
        """Publish record number `number`."""
        user = hostile_user(number)
        if number % BOMB_EVERY == BOMB_EVERY - 1:
            self._publish_bomb(number // BOMB_EVERY)
        elif number % TRANSACTION_EVERY == TRANSACTION_EVERY // 2:
            self._transact(abort=bool(number // TRANSACTION_EVERY % 2))
        elif number % OVERSIZED_EVERY == OVERSIZED_EVERY // 4:
            self._publish_action("oversized", user.encode(), (user.encode(), bytes(OVERSIZED_BYTES)))
        elif number % ERASURE_EVERY == ERASURE_EVERY // 4 + 1:
            self._publish_action("an erasure", user.encode(), (user.encode(), None))
        elif number % CRAFTED_EVERY == 0:
            self._publish_crafted(number // CRAFTED_EVERY)
        elif number % ITEM_EVERY == 0:
            self._publish_item("mutated item", batch(record(*odd_item(self._rng)), timestamp_ms=_now_ms()))
        else:
            self._publish_action("mutated action", user.encode(), odd_action(self._rng, user, _now_ms()))

    def close(self) -> None:
        """Disconnect."""
        if self._transactions is not None:
            self._transactions.close(5)

    def _publish_bomb(self, turn: int) -> None:
        name, bomb = self._bombs[turn % len(self._bombs)]
        if turn // len(self._bombs) % 2 == 0:
            self._count(name, self._publish(self._partition_of(hostile_user(0).encode()), bomb))
        else:
            self._publish_item(name, bomb)

    def _publish_crafted(self, turn: int) -> None:
        partition, made = self._crafted[turn % len(self._crafted)]
        name, crafted = made[turn % len(made)]
        if turn // len(made) % 3 == 2:
            self._publish_item(name, crafted)
        else:
            self._count(name, self._publish(partition, crafted))

    def _publish_action(self, name: str, route: bytes, odd: Record) -> None:
        # One record in twenty goes to the wrong partition.
        partition = self._rng.randrange(self._target.partitions)
        if self._rng.random() > 0.05:
            partition = self._partition_of(odd[0] or route)
        self._count(name, self._publish(partition, batch(record(*odd), timestamp_ms=_now_ms())))

    def _publish_item(self, name: str, made: bytes) -> None:
        partition = self._rng.randrange(self._target.items_partitions)
        self._count(f"{name} (items)", self._producer.produce(self._target.items_topic, partition, made))

    def _publish(self, partition: int, made: bytes) -> Outcome:
        return self._producer.produce(self._target.actions_topic, partition, made)

    def _partition_of(self, key: bytes) -> int:
        return self._target.partition_of(key)

    def _count(self, name: str, outcome: Outcome) -> None:
        self.done[f"{name}: {'accepted' if outcome.accepted else f'refused ({outcome.error})'}"] += 1

    def _transact(self, *, abort: bool) -> None:
        """Publish a few actions in a transaction; its end marker is a record that consumers do not see."""
        if self._transactions is None:
            self._transactions = KafkaProducer(
                bootstrap_servers=self._target.bootstrap_server,
                transactional_id=f"hostile-{self._target.actions_topic}",
                transaction_timeout_ms=5_000,
                metrics_enabled=False,
            )
            self._transactions.init_transactions()
        with suppress(KafkaError):
            self._transactions.begin_transaction()
            for number in range(_TRANSACTION):
                user = hostile_user(self._rng.randrange(HOSTILE_USERS))
                action = Action(user_id=user, item_id=number, timestamp_ms=_now_ms(), action_type=1)
                self._transactions.send(
                    self._target.actions_topic,
                    key=user.encode(),
                    value=action.SerializeToString(),
                    partition=self._partition_of(user.encode()),
                )
            if abort:
                self._transactions.abort_transaction()
            else:
                self._transactions.commit_transaction()
            self.done[f"a transaction: {'aborted' if abort else 'committed'}"] += 1


def _crafted(user: str, now_ms: int) -> list[tuple[str, bytes]]:
    """Return the names and the bytes of all crafted batches, built from a valid action."""
    key = user.encode()
    value = Action(user_id=user, item_id=now_ms, timestamp_ms=now_ms, action_type=1).SerializeToString()
    return [*plain(key, value, now_ms).items(), *compressed(key, value, now_ms).items()]


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
