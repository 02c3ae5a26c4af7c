"""A node's stream without a node: recording stores, and a stream over them in the running event loop."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from store.actions import ActionBatch
from store.vocabulary import Vocabulary
from stream.action_stream import ActionStream
from stream.dead_letters import DeadLetterPublisher
from stream.decode import Rules
from stream.partition import PartitionState
from stream.settings import KafkaSettings, UpdaterSettings
from stream.updater import Updater


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

    def add(self, store: RecordingStore) -> None:
        self.served.add(store.partition)

    def announce(self, partition: int) -> None:
        assert partition not in self.served

    def remove(self, partition: int, why: str = "") -> None:  # noqa: ARG002
        self.served.discard(partition)


@dataclass
class Node:
    """One node's part of a test. Disks are shared by number, so that a "restart" finds what was there."""

    kafka: KafkaSettings
    updater: UpdaterSettings = field(default_factory=lambda: UpdaterSettings(batch_max_wait_ms=5))
    disks: dict[int, RecordingStore] = field(default_factory=dict)
    directory: RecordingDirectory = field(default_factory=RecordingDirectory)
    states: list[tuple[int, PartitionState]] = field(default_factory=list)
    opened: list[int] = field(default_factory=list)
    before_open: Callable[[int], None] = lambda _: None
    stream: Any = None

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

    def make_updater(self) -> Updater[RecordingStore]:
        return Updater(
            self.updater,
            self.rules(),
            open_store=self.open_store,
            close_store=self.close_store,
            directory=self.directory,
            dead_letters=DeadLetterPublisher(self.kafka, self.updater),
            on_state=lambda partition, state, _: self.states.append((partition, state)),
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Node"]:
        self.stream = ActionStream(self.kafka, self.updater, self.make_updater())
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
