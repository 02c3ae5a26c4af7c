"""An updater over recording stores, with a log that the test controls."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from aiokafka.errors import KafkaTimeoutError

from lifeline.core.kafka_settings import KafkaSettings
from lifeline.stream.log import Bounds, LogEnd, PartitionGoneError
from lifeline.stream.settings import UpdaterSettings
from lifeline.stream.updater import Updater
from lifeline.v1.action_pb2 import Action
from tests.support.records import PARTITION, FakeRecord
from tests.support.stream_harness import Node, RecordingStore


class FakeLog:
    """A `LogReader` of an assignment: the test sets its bounds, revokes it (`gone`) or disconnects it (`away`)."""

    def __init__(self, start: int = 0, end: int = 0) -> None:
        self.start, self.end = start, end
        self.partitions: int | None = None
        self.stable: int | None = None
        """The last stable offset while a transaction is open."""
        self.gone = False
        self.resumed: list[tuple[int, int]] = []
        self.paused: list[int] = []
        self.committed: list[Mapping[int, int]] = []
        self.away = False
        self.commits_started = 0

    def _check(self) -> None:
        if self.gone:
            raise PartitionGoneError("revoked: nothing to do")

    async def bounds(self, partition: int) -> Bounds:  # noqa: ARG002
        self._check()
        if self.away:
            raise KafkaTimeoutError
        return Bounds(self.start, self.end if self.stable is None else self.stable)

    async def resume_at(self, partition: int, offset: int) -> None:
        self._check()
        self.resumed.append((partition, offset))

    def pause(self, partition: int) -> None:
        self._check()
        self.paused.append(partition)

    def known_end(self, partition: int) -> LogEnd | None:  # noqa: ARG002
        return None if self.gone else LogEnd(self.end if self.stable is None else self.stable, self.end)

    def partition_count(self) -> int | None:
        return self.partitions

    def position(self, partition: int) -> int | None:  # noqa: ARG002
        return None

    def connected(self, partition: int) -> bool:  # noqa: ARG002
        return not self.away

    async def commit(self, offsets: Mapping[int, int]) -> bool:
        self.commits_started += 1
        if self.away:
            await asyncio.Event().wait()
        self.committed.append(offsets)
        return True


def records(*offsets: int) -> list[FakeRecord]:
    return [
        FakeRecord(
            offset=offset,
            value=Action(user_id="ann", item_id=offset, timestamp_ms=5, action_type=1).SerializeToString(),
        )
        for offset in offsets
    ]


@asynccontextmanager
async def updating(node: Node, log: FakeLog) -> AsyncIterator[Updater[RecordingStore]]:
    updater = node.make_updater()
    updater.start()
    try:
        await updater.on_assigned(frozenset({PARTITION}), log)
        yield updater
    finally:
        await updater.close()


def items(node: Node) -> list[int]:
    return [item for _, _, item, _ in node.disks[PARTITION].events]


def make_node(applied: int = -1, **settings: Any) -> Node:
    node = Node(KafkaSettings(), UpdaterSettings(**({"batch_max_wait_ms": 0} | settings)))
    node.disks[PARTITION] = RecordingStore(PARTITION, applied_offset=applied)
    return node


async def hand_over(updater: Updater[RecordingStore], batch: Sequence[FakeRecord]) -> None:
    await updater.wait_for_room()
    await updater.on_records(PARTITION, batch)
