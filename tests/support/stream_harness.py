"""A node's stream without a node: recording stores, and a stream over them in the running event loop."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from lifeline.core.actions import ActionBatch
from lifeline.core.kafka_settings import KafkaSettings
from lifeline.core.vocabulary import Vocabulary
from lifeline.stream.action_stream import ActionStream
from lifeline.stream.dead_letters import DeadLetterPublisher
from lifeline.stream.decode import Rules
from lifeline.stream.fingerprint_log import AppliedState, Fingerprint, FingerprintLog
from lifeline.stream.membership import Membership
from lifeline.stream.observer import NoObserver
from lifeline.stream.partition import PartitionState
from lifeline.stream.placement import NO_PLACEMENT, Placement
from lifeline.stream.settings import UpdaterSettings
from lifeline.stream.standby import StandbyFollower
from lifeline.stream.stores import StoreAccess
from lifeline.stream.updater import Updater


class RecordedState(NamedTuple):
    applied_offset: int
    fingerprint: int


class RecordingStore:
    """Keeps every event it was given, in order; the same object is "opened" again, as a directory would be."""

    def __init__(self, partition: int, applied_offset: int = -1) -> None:
        self.partition = partition
        self.applied_offset = applied_offset
        self.durable_offset = applied_offset
        self.events: list[tuple[bytes, int, int, int]] = []
        self.erased: list[bytes] = []
        self.open = False
        self.before_apply: Callable[[], None] = lambda: None
        self.skew = 0
        """Added to the fingerprint: what a damaged store would say."""

    @property
    def state(self) -> AppliedState:
        return RecordedState(self.applied_offset, hash(tuple(self.events)) % (1 << 128) + self.skew)

    def apply(self, batch: ActionBatch, *, offset: int) -> int:
        self.before_apply()
        assert self.open
        assert offset > self.applied_offset
        self.events += zip(
            batch.user_ids, batch.timestamp_ms.tolist(), batch.item_id.tolist(), batch.code.tolist(), strict=True
        )
        self.applied_offset = self.durable_offset = offset
        return len(batch)

    def erase(self, user_id: bytes, *, offset: int) -> int:
        assert self.open
        assert offset > self.applied_offset
        before = len(self.events)
        self.events = [event for event in self.events if event[0] != user_id]
        self.erased.append(user_id)
        self.applied_offset = self.durable_offset = offset
        return before - len(self.events)


class RecordingDirectory:
    def __init__(self) -> None:
        self.served: set[int] = set()

    def add(self, store: RecordingStore, lag: Callable[[], int], blocked: Callable[[], str]) -> None:
        assert lag() >= 0
        assert isinstance(blocked(), str)
        self.served.add(store.partition)

    def announce(self, partition: int) -> None:
        assert partition not in self.served

    def remove(self, partition: int, why: str = "") -> None:  # noqa: ARG002
        self.served.discard(partition)


class StateRecorder(NoObserver):
    """Keeps every change of a state, and every partition that was closed."""

    def __init__(self, states: list[tuple[int, PartitionState]], closed: list[int]) -> None:
        self._states, self._closed = states, closed

    def on_state(self, partition: int, state: PartitionState) -> None:
        self._states.append((partition, state))

    def on_closed(self, partition: int) -> None:
        self._closed.append(partition)


@dataclass
class Node:
    """One node's part of a test. Disks are shared by number, so that a "restart" finds what was there."""

    kafka: KafkaSettings
    updater: UpdaterSettings = field(default_factory=lambda: UpdaterSettings(batch_max_wait_ms=5))
    disks: dict[int, RecordingStore] = field(default_factory=dict)
    directory: RecordingDirectory = field(default_factory=RecordingDirectory)
    states: list[tuple[int, PartitionState]] = field(default_factory=list)
    opened: list[int] = field(default_factory=list)
    closed: list[int] = field(default_factory=list)
    address: str = ""
    peers: dict[str, "Node"] = field(default_factory=dict)
    """By address: whom a standby may ask. A node that is in it follows what the group's leader says."""
    placement: Placement = NO_PLACEMENT
    before_open: Callable[[int], None] = lambda _: None
    stream: Any = None
    running_updater: Any = None
    standby: Any = None
    publisher: Any = None
    """Instead of the real one."""
    fingerprints: FingerprintLog = field(default_factory=lambda: FingerprintLog(1 << 16))

    async def take_over(self, partition: int) -> RecordingStore | None:
        return None if self.standby is None else await self.standby.release(partition)

    def open_store(self, partition: int) -> RecordingStore:
        self.before_open(partition)
        store = self.disks.setdefault(partition, RecordingStore(partition))
        assert not store.open
        store.open = True
        self.opened.append(partition)
        return store

    def close_store(self, store: RecordingStore) -> None:
        assert store.open
        store.open = False

    def rules(self) -> Rules:
        return Rules.of(Vocabulary(), self.kafka.partitions, self.updater)

    def make_standby(self) -> StandbyFollower[RecordingStore]:
        return StandbyFollower(
            self.kafka,
            self.updater,
            self.rules(),
            StoreAccess(self.open_store, self.close_store),
            is_held=self.running_updater.holds,
            fingerprints=self.fingerprints,
            ask_owner=self.ask,
        )

    async def ask(self, address: str, partitions: Sequence[int]) -> dict[int, list[Fingerprint]]:
        owner = self.peers[address]
        stores = {number: owner.running_updater.store_of(number) for number in partitions}
        return {
            number: owner.fingerprints.of(number, store.state) for number, store in stores.items() if store is not None
        }

    def placed(self, placement: Placement) -> None:
        self.placement = placement
        if self.standby is not None:
            self.standby.on_placement(placement)

    def make_updater(self) -> Updater[RecordingStore]:
        return Updater(
            self.updater,
            self.rules(),
            StoreAccess(self.open_store, self.close_store),
            directory=self.directory,
            dead_letters=self.publisher or DeadLetterPublisher(self.kafka, self.updater),
            take_over=self.take_over,
            fingerprints=self.fingerprints,
            observer=StateRecorder(self.states, self.closed),
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Node"]:
        self.fingerprints = FingerprintLog(self.updater.fingerprint_every)
        self.running_updater = self.make_updater()
        self.standby = self.make_standby() if self.address in self.peers else None
        if self.standby is not None:
            self.running_updater.on_suspend = self.standby.suspend
        holders = [self.running_updater] if self.standby is None else [self.standby, self.running_updater]
        self.stream = ActionStream(
            self.kafka,
            self.updater,
            self.running_updater,
            standby=self.standby,
            membership=Membership(holders, address=lambda: self.address, on_placement=self.placed),
        )
        try:
            await self.stream.start()
            yield self
        finally:
            await self.stream.stop(15)

    def state_of(self) -> dict[int, PartitionState]:
        return {status.partition: status.state for status in self.stream.status()}

    def serving(self) -> set[int]:
        return {number for number, state in self.state_of().items() if state is PartitionState.SERVING}

    def events(self) -> list[tuple[bytes, int, int, int]]:
        return sorted(event for store in self.disks.values() for event in store.events)


async def until(condition: Callable[[], bool], within_s: float = 30.0, *, what: str = "") -> None:
    """Poll a condition under a deadline."""
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"did not come about within {within_s} s: {what or condition}")
        await asyncio.sleep(0.02)


async def caught_up(node: Node, total: int) -> None:
    await until(lambda: len(node.serving()) == 4 and len(node.events()) == total, what=f"{total} events")
