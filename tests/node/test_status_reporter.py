"""What the gRPC server is told of a node's health, and how often the node looks."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import cast

import pytest

from lifeline.node.group import GroupPart
from lifeline.node.health import Health
from lifeline.node.status_reporter import StateSignal, StatusReporter
from lifeline.rpc.server import NodeServer
from lifeline.stream.partition import PartitionState, PartitionStatus
from tests.support.node_health import SERVING
from tests.support.stream_harness import until


@dataclass
class World:
    """The partitions of a node, and what its server was told."""

    status: PartitionStatus = SERVING
    looks: int = 0
    ready: list[bool] = field(default_factory=list)
    live: list[bool] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def partitions(self) -> list[PartitionStatus]:
        self.looks += 1
        return [self.status]

    def enter(self, state: PartitionState) -> None:
        self.status = replace(self.status, state=state)
        StateSignal(self.changed).on_state(self.status.partition, state)

    @asynccontextmanager
    async def reported(self) -> AsyncIterator[None]:
        health = Health(self.partitions, list, stall_after_s=60)
        health.is_assigned = health.has_synced_items = True
        stores: Callable[[int], None] = lambda _: None  # noqa: E731 - an attribute
        group = SimpleNamespace(stream=SimpleNamespace(status=lambda: [self.status]), store_of=stores)
        server = SimpleNamespace(
            set_ready=lambda *, ready: self.ready.append(ready), set_live=lambda *, live: self.live.append(live)
        )
        reporter = StatusReporter(health, cast("GroupPart", group), cast("NodeServer", server), self.changed)
        task = asyncio.create_task(reporter.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def test_each_change_is_passed_on_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lifeline.node.status_reporter._INTERVAL_S", 600)
    world = World()
    async with world.reported():
        await until(lambda: world.ready == [True])
        world.enter(PartitionState.CATCHING_UP)
        await until(lambda: world.ready == [True, False])
        world.enter(PartitionState.STALLED)
        await until(lambda: world.live == [False])
        world.enter(PartitionState.SERVING)
        await until(lambda: (world.ready, world.live) == ([True, False, True], [False, True]))


async def test_an_idle_node_looks_at_its_health_twice_a_second() -> None:
    world = World()
    async with world.reported():
        await until(lambda: world.ready == [True])
        before = world.looks
        await asyncio.sleep(1)
    # Liveness and readiness each look once.
    assert world.looks - before <= 2 * 3
