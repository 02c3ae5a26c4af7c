"""A node: it wires partition stores, the stream, scoring and the servers into one process.

It starts storage, scoring, the group's part, HTTP, items, gRPC, and last the stream, and stops in reverse order, except
that it leaves the group while the last calls finish: their stores close after them. It is ready once the items are read
and every partition that the group has assigned to it serves. If a part fails, the node exits instead of running without
consuming; a supervisor starts it again, and it resumes from the applied offsets of the stores.
"""

import asyncio
import os
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from typing import Any

import structlog

from lifeline.config import Settings
from lifeline.core.partitioner import partition_of
from lifeline.node.deadline import Deadline
from lifeline.node.group import GroupPart
from lifeline.node.health import Health
from lifeline.node.http import HttpServer
from lifeline.node.metrics.collector import ItemCounts
from lifeline.node.metrics.node_metrics import NodeMetrics
from lifeline.node.scoring import Scoring
from lifeline.node.security_watch import SecurityWatch
from lifeline.node.snapshot_ages import SnapshotAges
from lifeline.node.status_reporter import StateSignal, StatusReporter
from lifeline.node.storage import Storage
from lifeline.rpc.directory import PartitionDirectory
from lifeline.rpc.operator_service import OperatorService
from lifeline.rpc.owners import advertised_address
from lifeline.rpc.routing import Routing
from lifeline.rpc.sequence_service import SequenceService
from lifeline.rpc.server import USER_SERVICES, NodeServer, Services
from lifeline.rpc.waits import Waits
from lifeline.store.embeddings import EmbeddingTable
from lifeline.store.errors import DiskFullError
from lifeline.store.gc_tuning import tune_gc
from lifeline.stream.items import ItemFollower
from lifeline.stream.observer import Observer, Observers

_SYNC_S = 1.0
_FULL_DISK_S = 10.0
_TICK_S = 0.25
_MIB = 1 << 20

_log = structlog.get_logger(__name__)


class Node:
    """A running node. It stops when the exit stack that `start` got closes."""

    def __init__(
        self,
        server: NodeServer,
        group: GroupPart,
        items: ItemFollower,
        embeddings: EmbeddingTable,
        health: Health,
        health_changed: asyncio.Event,
    ) -> None:
        """Use `Node.start`."""
        self._server, self._group, self._items = server, group, items
        self._embeddings, self._health, self._health_changed = embeddings, health, health_changed
        self._reporter = StatusReporter(health, group, server, health_changed)

    @classmethod
    async def start(cls, settings: Settings, watch: SecurityWatch, stack: AsyncExitStack, deadline: Deadline) -> "Node":
        """Start every part; `stack` stops them in reverse order, within `deadline`. Raises what the parts raise."""
        storage = await Storage.open(settings, stack)
        settings = storage.settings
        node, kafka = settings.node, settings.kafka
        metrics = NodeMetrics() if node.metrics else None
        embeddings, snapshots = storage.embeddings, storage.snapshots
        waits = Waits(node.wait_places, node.max_wait_ms / 1000)
        directory = PartitionDirectory(lambda key: partition_of(key, kafka.partitions), embeddings, waits)
        scoring = Scoring.start(settings, embeddings, stack)
        health_changed = asyncio.Event()
        observers: list[Observer] = [StateSignal(health_changed), *([metrics.stream] if metrics else [])]
        group = GroupPart.of(settings, storage.access(metrics), directory, Observers(observers), lambda: watch.current)
        items = ItemFollower(kafka, embeddings)

        health = Health(
            group.stream.status, group.stream.standbys, stall_after_s=settings.updater.stall_after_ms / 1000
        )
        if metrics is not None:
            ages = SnapshotAges(snapshots, lambda: [status.partition for status in group.stream.status()])
            _in_background(ages.follow(), stack)
            metrics.serve(
                group,
                items,
                health,
                scoring.producers,
                ages.seconds,
                scoring.cache.statistics,
                waits.statistics,
                ItemCounts(storage.memory.items, embeddings),
            )
        _in_background(_tick(health), stack)
        http = HttpServer(node.http_address, health, metrics.registry if metrics else None)
        stack.callback(http.stop)

        stack.push_async_callback(lambda: items.stop(deadline.left()))
        await items.start()
        # The stream starts last, and its stores close after the server, because calls under way read them.
        stack.push_async_callback(lambda: group.stream.stop(deadline.left()))
        routing = Routing(directory, group.owners, USER_SERVICES, misrouted=node.misrouted, security=settings.security)
        stack.callback(routing.close)
        services = Services(
            SequenceService(directory, max_reply_bytes=node.max_message_mib * _MIB),
            scoring.service(directory, metrics.scores if metrics else None),
            OperatorService(
                directory,
                snapshots,
                group.view,
                topic=storage.actions_topic.topic,
                topic_id=storage.actions_topic.topic_id,
            ),
            scoring.models.service(),
        )
        server = NodeServer(node, services, routing, metrics.calls if metrics else None, settings.security)
        stack.push_async_callback(lambda: _hand_over(server, routing, group, deadline))
        watch.use = lambda security: server.use_callers(security.callers)
        _in_background(watch.follow(), stack)
        group.owners.own_address = advertised_address(node, server.address)
        _log.info(
            "listening",
            grpc_address=server.address,
            advertised_address=group.owners.own_address,
            http_address=http.address,
            pid=os.getpid(),
        )
        tune_gc()
        await group.stream.start()
        health.is_assigned = True
        return cls(server, group, items, embeddings, health, health_changed)

    async def run(self) -> None:
        """Consume and serve until a part ends, and raise its error."""
        parts = (self._group.stream.wait(), self._items.wait(), self._reporter.run(), self._sync_items())
        tasks = [asyncio.create_task(part) for part in parts]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def drain(self, seconds: float) -> None:
        """Begin a stop: report not ready, and keep serving for `seconds`, until callers have noticed."""
        self._health.is_stopping = True
        self._server.set_ready(ready=False)
        await asyncio.sleep(seconds)

    async def _sync_items(self) -> None:
        """Sync the embeddings and their offsets to the disk once a second, and before the node is ready."""
        await self._items.caught_up.wait()
        while True:
            try:
                await asyncio.to_thread(self._embeddings.sync)
            except DiskFullError as error:
                _log.error("the embeddings are not synced", why=str(error))
                await asyncio.sleep(_FULL_DISK_S)
                continue
            if not self._health.has_synced_items:
                self._health.has_synced_items = True
                self._health_changed.set()
            await asyncio.sleep(_SYNC_S)


async def _hand_over(server: NodeServer, routing: Routing, group: GroupPart, deadline: Deadline) -> None:
    """Refuse new calls, and give the partitions to other nodes while the calls under way finish."""
    # Calls get half of the remaining time; closing the stores needs the rest.
    wait_for_calls = server.refuse_calls(deadline.left() / 2)
    routing.end_waits()
    group.owners.leave()
    ended = await asyncio.gather(
        asyncio.to_thread(wait_for_calls), group.stream.leave(deadline.left()), return_exceptions=True
    )
    for error in ended:
        if isinstance(error, BaseException):
            raise error


def _in_background(work: Coroutine[Any, Any, None], stack: AsyncExitStack) -> None:
    """Run `work` until the stack closes."""
    task = asyncio.create_task(work)

    async def stop() -> None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    stack.push_async_callback(stop)


async def _tick(health: Health) -> None:
    while True:
        health.tick()
        await asyncio.sleep(_TICK_S)
