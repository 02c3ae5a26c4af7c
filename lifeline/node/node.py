"""A node: Faust worker, partition stores, gRPC server and scorer wired into one process.

It starts from the inside out (stores' memory, embedding table, server, stream), is ready once the items are in and
every partition that the group gave it serves, and ends in the other order. It crashes rather than live without
consuming: a supervisor starts it again, and the store's applied offset says where.
"""

import asyncio
import os
import signal
import time
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from typing import Any, TypeVar

import structlog

from lifeline.config import Loaded, Settings
from lifeline.core.partitioner import partition_of
from lifeline.core.paths import items_dir, partition_dir
from lifeline.core.topics import ensure_topics
from lifeline.node.deadline import Deadline
from lifeline.node.group import GroupPart
from lifeline.node.health import Health, holds
from lifeline.node.http import HttpServer
from lifeline.node.metrics.collector import ItemCounts
from lifeline.node.metrics.node_metrics import NodeMetrics
from lifeline.node.models import Models
from lifeline.node.restore import open_partition
from lifeline.node.security_watch import SecurityWatch
from lifeline.node.snapshot_ages import SnapshotAges
from lifeline.ops.topic_note import TopicIdentity
from lifeline.producer.best_effort_producer import BestEffortProducer
from lifeline.rpc.directory import PartitionDirectory
from lifeline.rpc.memory_limit import item_limit
from lifeline.rpc.operator_service import OperatorService
from lifeline.rpc.owners import advertised_address
from lifeline.rpc.routing import Routing
from lifeline.rpc.score_service import CallSinks, ScoreService
from lifeline.rpc.sequence_service import SequenceService
from lifeline.rpc.server import ROUTED, NodeServer, Services
from lifeline.rpc.waits import Waits
from lifeline.scorer.allocator import share_heaps
from lifeline.scorer.history_cache import HistoryCache
from lifeline.store.data_lock import locked
from lifeline.store.embeddings import EmbeddingTable
from lifeline.store.fingerprint import as_text
from lifeline.store.gc_tuning import keep_collector_away
from lifeline.store.memory import SharedMemory
from lifeline.store.partition import PartitionStore
from lifeline.store.snapshots.repository import SnapshotRepository
from lifeline.stream.aio import run_abandonable
from lifeline.stream.items import ItemFollower
from lifeline.stream.stores import StoreAccess

_PROGRESS_S = 0.5
_WATCH_S = 0.05
_SYNC_S = 1.0
_TICK_S = 0.25
_SIDE_STOP_S = 5.0
_MIB = 1 << 20

_T = TypeVar("_T")

_log = structlog.get_logger(__name__)


async def run_node(loaded: Loaded) -> None:
    """Run a node until SIGTERM or SIGINT; returns after a graceful stop, raises whatever crashed it."""
    settings = loaded.settings
    # Before anything is begun: who could call is the first thing to be sure of.
    settings.security.listening_addresses(settings.node.grpc_address)
    share_heaps()
    loop = asyncio.get_running_loop()
    asked = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked.set)
    watch = SecurityWatch(loaded)
    loop.add_signal_handler(signal.SIGHUP, watch.ask)
    stopping = Deadline(settings.node.stop_deadline_s)
    async with AsyncExitStack() as stack:
        node = await _unless(asked, Node.start(settings, watch, stack, stopping))
        if node is not None:
            await _unless(asked, node.run())
        stopping.begin()
        _log.info("stopping", deadline_s=settings.node.stop_deadline_s)
        if node is not None:
            await node.leave(min(settings.node.drain_s, stopping.left()))
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        # A signal that comes again while the process ends would make a graceful stop look like a crash.
        loop.remove_signal_handler(number)
        signal.signal(number, signal.SIG_IGN)
    _log.info("stopped")


async def _unless(asked: asyncio.Event, work: Coroutine[Any, Any, _T]) -> _T | None:
    """Return what `work` gives, or None when a stop is asked for first: it is then cancelled."""
    doing, waiting = asyncio.create_task(work), asyncio.create_task(asked.wait())
    try:
        await asyncio.wait({doing, waiting}, return_when=asyncio.FIRST_COMPLETED)
        return doing.result() if doing.done() else None
    finally:
        doing.cancel()
        waiting.cancel()
        await asyncio.gather(doing, waiting, return_exceptions=True)


class Node:
    """The parts of a running node. Its life is that of the exit stack it was started in."""

    def __init__(
        self, server: NodeServer, group: GroupPart, items: ItemFollower, embeddings: EmbeddingTable, health: Health
    ) -> None:
        """Use `Node.start`."""
        self._server, self._group, self._items = server, group, items
        self._embeddings, self._health = embeddings, health
        self._started = time.monotonic()

    @classmethod
    async def start(cls, settings: Settings, watch: SecurityWatch, stack: AsyncExitStack, stopping: Deadline) -> "Node":
        """Start every part; `stack` stops them again, within `stopping`. Raises what the parts raise."""
        node = settings.node
        stack.enter_context(locked(node.data_dir))
        actions_topic, *_ = await run_abandonable(ensure_topics, settings.kafka, aged=settings.store.has_ages)
        TopicIdentity(settings.kafka.actions_topic, actions_topic.topic_id).check(node.data_dir)
        snapshots = SnapshotRepository.of(settings.snapshot) if settings.snapshot.url else None
        shape = settings.store
        if shape.max_items is None:
            shape = shape.model_copy(update={"max_items": item_limit(node.max_memory_mib)})
        memory = SharedMemory(shape)
        embeddings = EmbeddingTable.open(items_dir(node.data_dir), max_items=shape.max_items)
        stack.callback(embeddings.close)
        waits = Waits(node.wait_places, node.max_wait_ms / 1000)
        directory = PartitionDirectory(lambda key: partition_of(key, settings.kafka.partitions), embeddings, waits)
        models = Models(settings, embeddings)
        tables = HistoryCache(round(settings.scorer.token_tables_mib * _MIB))
        metrics = NodeMetrics() if node.metrics else None
        stores = _store_access(settings, memory, snapshots, metrics)
        group = GroupPart.of(settings, stores, directory, metrics.stream if metrics else None, lambda: watch.current)
        items = ItemFollower(settings.kafka, embeddings)
        health = Health(
            group.stream.status, group.stream.standbys, stall_after_s=settings.updater.stall_after_ms / 1000
        )
        selections = (
            _side_topic(settings, settings.kafka.selections_topic, stack) if settings.scorer.log_share else None
        )
        exposures = _side_topic(settings, settings.kafka.exposures_topic, stack) if settings.scorer.experiment else None
        if metrics is not None:
            ages = SnapshotAges(snapshots, lambda: [one.partition for one in group.stream.status()])
            _in_background(ages.follow(), stack)
            written = [one for one in (selections, exposures) if one]
            counts = ItemCounts(memory.items, embeddings)
            metrics.serve(group, items, health, written, ages.seconds, tables.statistics, waits.statistics, counts)
        _in_background(_tick(health), stack)
        http = HttpServer(node.http_address, health, metrics.registry if metrics else None)
        stack.callback(http.stop)

        stack.push_async_callback(lambda: items.stop(stopping.left()))
        await items.start()
        stack.push_async_callback(lambda: group.stream.stop(stopping.left()))
        routing = Routing(directory, group.owners, ROUTED, misrouted=node.misrouted, security=settings.security)
        stack.callback(routing.close)
        most = node.max_message_mib * _MIB
        server = NodeServer(
            node,
            Services(
                SequenceService(directory, max_reply_bytes=most),
                ScoreService(
                    directory,
                    models.holder,
                    settings.vocabulary,
                    settings.scorer,
                    tables,
                    max_reply_bytes=most,
                    told=CallSinks(selections, exposures, metrics.scores if metrics else None),
                ),
                OperatorService(directory, snapshots, group.view, topic=settings.kafka.actions_topic),
                models.service(),
            ),
            routing,
            metrics.calls if metrics else None,
            settings.security,
        )
        # Calls under way get half of what is left: applying what waits needs the rest.
        stack.push_async_callback(lambda: asyncio.to_thread(server.stop, stopping.left() / 2))
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
        keep_collector_away()
        await group.stream.start()
        health.assigned = True
        return cls(server, group, items, embeddings, health)

    async def run(self) -> None:
        """Keep health up to date and tell of progress, for as long as all is well; raises what crashed."""
        parts = (self._group.stream.wait(), self._items.wait(), self._watch(), self._sync_items())
        tasks = [asyncio.create_task(part) for part in parts]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def leave(self, drain_s: float) -> None:
        """Begin a stop: tell callers to go elsewhere, and serve those who have not heard for `drain_s` seconds."""
        self._health.leaving = True
        self._server.set_ready(ready=False)
        await asyncio.sleep(drain_s)

    async def _watch(self) -> None:
        """Look at the health many times a second; tell of progress once a second while there is any."""
        ready, live = False, True
        told_at, told = time.monotonic(), 0
        while True:
            if live is not (now_live := holds(self._health.live())):
                live = now_live
                self._server.set_live(live=live)
            now_ready = holds(self._health.ready())
            partitions = self._group.stream.status()
            records, now = sum(status.records for status in partitions), time.monotonic()
            if records != told and (now - told_at >= _PROGRESS_S or now_ready > ready):
                rate = round((records - told) / (now - told_at))
                lag = sum(status.lag for status in partitions)
                _log.info("progress", applied=records, events_per_s=rate, lag=lag)
                told_at, told = now, records
            if ready is not now_ready:
                ready = now_ready
                self._server.set_ready(ready=ready)
                self._tell_ready(ready=ready)
            await asyncio.sleep(_WATCH_S)

    async def _sync_items(self) -> None:
        """Bring the embeddings and their offsets to the disk once a second, and before `ready`."""
        await self._items.caught_up.wait()
        while True:
            await asyncio.to_thread(self._embeddings.sync)
            self._health.items_synced = True
            await asyncio.sleep(_SYNC_S)

    def _tell_ready(self, *, ready: bool) -> None:
        if not ready:
            failed = {check.name: check.detail for check in self._health.ready() if not check.ok}
            _log.warning("not ready", because=failed)
            return
        stores = {one.partition: self._group.store_of(one.partition) for one in self._group.stream.status()}
        state = {number: store.state for number, store in stores.items() if store is not None}
        _log.info(
            "ready",
            seconds=round(time.monotonic() - self._started, 3),
            events=sum(one.events for one in state.values()),
            applied={number: one.applied_offset for number, one in state.items()},
            fingerprint={number: as_text(one.fingerprint) for number, one in state.items()},
        )


def _store_access(
    settings: Settings, memory: SharedMemory, snapshots: SnapshotRepository | None, metrics: NodeMetrics | None
) -> StoreAccess[PartitionStore]:

    def open_store(number: int) -> PartitionStore:
        return open_partition(
            partition_dir(settings.node.data_dir, number),
            number,
            settings=settings.store,
            memory=memory,
            snapshots=snapshots,
            topic=settings.kafka.actions_topic,
        )

    def close_store(store: PartitionStore) -> None:
        if metrics is not None:
            metrics.stores.let_go(store)
        store.close()

    return StoreAccess(open_store, close_store)


def _in_background(work: Coroutine[Any, Any, None], stack: AsyncExitStack) -> None:
    """Run `work` until the stack is left."""
    task = asyncio.create_task(work)

    async def end() -> None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    stack.push_async_callback(end)


def _side_topic(settings: Settings, topic: str, stack: AsyncExitStack) -> BestEffortProducer:
    """Begin to write a side topic; it is closed after the server, so that what the last calls offered is published."""
    made = BestEffortProducer(settings.kafka, topic)
    stack.push_async_callback(asyncio.to_thread, made.close, _SIDE_STOP_S)
    return made


async def _tick(health: Health) -> None:
    while True:
        health.tick()
        await asyncio.sleep(_TICK_S)
