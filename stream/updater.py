"""The updater: it collects fetched records into batches, and applies each batch to a store in one write.

The path of a record, in the order of its partition::

    on_records -> pending (bounded) -> one batch -> decode -> dead letters acknowledged -> store -> group commit

This module has the loop. `partition` has the state machine, `lifecycle` opens and closes stores, and `pending` has the
queues. One thread decodes and applies, one batch at a time, so that the event loop is never blocked; two threads on two
cores applied only 1.1 times as much, because most of the work holds the interpreter's lock. Each assignment starts
after the store's applied offset, whatever the group has committed; the group's commit only follows, for tools. An
exception in any task ends the updater (`wait` raises it) and the node: a node that runs but consumes nothing is worse
than a stopped one.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from operator import itemgetter
from typing import Any, Generic, TypeVar

import structlog

from lifeline.core.kafka_errors import DeadLetterError, StreamError
from lifeline.store.errors import DiskFullError, ItemLimitError
from lifeline.stream.added_partitions import suspension
from lifeline.stream.apply import apply_steps
from lifeline.stream.bad_record_breaker import BadRecordBreaker
from lifeline.stream.dead_letters import DeadLetterPublisher
from lifeline.stream.decode import DecodedBatch, Rules, decode
from lifeline.stream.fingerprint_log import FingerprintLog
from lifeline.stream.lifecycle import PartitionLifecycle, refuse
from lifeline.stream.log import LogReader, PartitionGoneError
from lifeline.stream.observer import AppliedBatch, NoObserver, Observer
from lifeline.stream.partition import HeldPartition, PartitionState, PartitionStatus
from lifeline.stream.pending import Batch, IntakeLimit
from lifeline.stream.placement import LocalPartition
from lifeline.stream.record import Record, first_offset_of, records_from
from lifeline.stream.settings import UpdaterSettings
from lifeline.stream.stores import Directory, StoreAccess, StoreT

_WATCH_S = 0.25
_COMMIT_S = 5.0
_LAST_COMMIT_S = 1.5
_PAUSE_S = 1.0
_PAUSE_MAX_S = 30.0
_MAX_DOUBLINGS = 8
_ResultT = TypeVar("_ResultT")

_log = structlog.get_logger(__name__)


async def _no_standby(_number: int) -> None:
    return None


class Updater(Generic[StoreT]):
    """Has the stores of the partitions that this node owns, and applies the log to them.

    Before it opens a store, it calls `take_over`, which returns the open store if this node has followed the partition.
    A store is in the `directory` from when it has caught up with the log (with ``updater.serve`` "stale": from when it
    is open and fits the log) until its partition goes to another node, or refuses. All methods belong to one event
    loop.
    """

    def __init__(
        self,
        settings: UpdaterSettings,
        rules: Rules,
        stores: StoreAccess[StoreT],
        *,
        directory: Directory[StoreT],
        dead_letters: DeadLetterPublisher,
        take_over: Callable[[int], Awaitable[StoreT | None]] = _no_standby,
        fingerprints: FingerprintLog | None = None,
        observer: Observer | None = None,
    ) -> None:
        self._settings, self._rules = settings, rules
        self._directory = directory
        self._dead_letters = dead_letters
        self._fingerprints = fingerprints or FingerprintLog(settings.fingerprint_every)
        self._observer: Observer = observer or NoObserver()
        self._lifecycle = PartitionLifecycle(settings, stores, self._fingerprints, take_over)
        self.intake = IntakeLimit(4 * settings.batch_max_records, settings.max_waiting_mib << 20)
        """The limit of waiting records of all partitions; beyond it the transport waits."""
        self.added_partitions = 0
        """How many partitions the topic has beyond those that the stores were built with."""
        self.on_suspend: Callable[[str], None] = lambda _why: None
        """Called with the reason when partitions were added to the topic."""
        self._partitions: dict[int, HeldPartition[StoreT]] = {}
        self._reader: LogReader | None = None
        self._work_arrived = asyncio.Event()
        self._stopping = False
        self._committed: dict[int, int] = {}
        self._committing: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._worker: asyncio.Task[None] | None = None
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="lifeline-apply")

    def start(self) -> None:
        """Start the tasks; `on_assigned` adds partitions."""
        self._worker = self._spawn(self._work())
        self._spawn(self._watch())

    async def wait(self) -> None:
        """Wait until the updater fails, and raise its error."""
        await asyncio.shield(self._failed)

    def fail(self, error: BaseException) -> None:
        """Let `wait` raise `error`, unless it has an error already."""
        if not self._failed.done():
            self._failed.set_exception(error)
            # Mark the exception retrieved, so that asyncio does not warn when nothing waits.
            self._failed.exception()

    def status(self) -> list[PartitionStatus]:
        """Return the status of every partition that is owned or not closed yet, by number; callable from any thread."""
        return [partition.status() for _, partition in sorted(self._partitions.items(), key=itemgetter(0))]

    def holds(self, number: int) -> bool:
        """Return whether this node owns a partition, or has not closed it yet; callable from any thread."""
        return number in self._partitions

    def store_of(self, number: int) -> StoreT | None:
        """Return the open store of a partition of this node; callable from any thread."""
        partition = self._partitions.get(number)
        return None if partition is None else partition.store

    def local_partitions(self) -> dict[int, LocalPartition]:
        """Return the open stores; callable from any thread."""
        return {
            partition.number: LocalPartition(store.applied_offset, owned=True)
            for partition in list(self._partitions.values())
            if (store := partition.store) is not None
        }

    def unusable_stores(self) -> frozenset[int]:
        """Return the partitions that refuse, or did when they were revoked; callable from any thread."""
        return frozenset(partition.number for partition in list(self._partitions.values()) if partition.is_unusable)

    # -- calls of the transport --------------------------------------------------------------------------------

    async def on_assigned(self, partitions: frozenset[int], reader: LogReader) -> None:
        """Close the stores of partitions that left, and open and position those that arrived."""
        self._reader = reader
        self._observer.on_assigned(partitions)
        self._check_partitions(reader)
        for number in sorted(self._partitions.keys() - partitions):
            self._spawn(self._release(self._partitions[number]))
        for number in sorted(partitions):
            partition = self._partitions.get(number)
            if partition is None:
                partition = HeldPartition(number, self.intake, self._directory, self._observer.on_state)
                self._partitions[number] = partition
            breaker = BadRecordBreaker(self._settings.bad_share_records, self._settings.max_bad_share)
            partition.assign(reader, breaker)
            self._spawn(self._activate(partition, partition.epoch, reader))

    async def on_revoked(self, partitions: frozenset[int]) -> None:
        """Drop waiting records, and return once no batch is being applied. Stores stay open: most come back at once."""
        self._observer.on_revoked(partitions)
        revoked = [self._partitions[number] for number in sorted(partitions & self._partitions.keys())]
        for partition in revoked:
            partition.revoke()
        for partition in revoked:
            async with partition.applying:
                pass

    async def wait_for_room(self) -> None:
        """Return when there is room in `intake`."""
        await self.intake.wait_for_room()

    async def on_records(self, number: int, records: Sequence[Record]) -> None:
        """Queue the records from the next offset on; skip earlier ones, which are queued or applied already."""
        partition = self._partitions.get(number)
        if partition is None or not partition.is_consuming or self._stopping:
            return
        new = records_from(records, partition.next_offset)
        if len(new) < len(records) or first_offset_of(new[0]) > partition.next_offset:
            if not await self._lifecycle.is_continuous(partition, first_offset_of(records[0])):
                return
            if not new:
                return
        partition.push(new)
        self._work_arrived.set()

    def _check_partitions(self, reader: LogReader) -> None:
        """Let no partition consume any more once the topic has more partitions than the stores were built with."""
        count = reader.partition_count() or 0
        added = count - self._rules.partitions
        if added <= self.added_partitions:
            return
        if not self.added_partitions:
            self._spawn(self._lifecycle.follow_ends(lambda: list(self._partitions.values())))
        self.added_partitions = added
        why = suspension(self._rules.partitions, count)
        _log.error("partitions were added", why=why)
        self._lifecycle.suspend(self._partitions.values(), why)
        self.on_suspend(why)

    # -- the life of a partition -------------------------------------------------------------------------------

    async def _activate(self, partition: HeldPartition[StoreT], epoch: int, reader: LogReader) -> None:
        if await self._lifecycle.open(partition, epoch, reader):
            self._observe(partition)

    async def _release(self, partition: HeldPartition[StoreT]) -> None:
        is_closed = await self._lifecycle.close(partition)
        self._committed.pop(partition.number, None)
        if is_closed and self._partitions.get(partition.number) is partition:
            del self._partitions[partition.number]
            self._observer.on_closed(partition.number)

    def _pause(self, partition: HeldPartition[StoreT], why: str) -> None:
        """Consume nothing of a partition for a while; its waiting records are fetched again later."""
        reader = partition.reader
        if reader is None or not partition.is_consuming:
            return
        try:
            reader.pause(partition.number)
        except PartitionGoneError:
            # It is being revoked. The waiting records must not be applied after the batch that failed.
            partition.revoke()
            return
        pauses = partition.pause(why)
        pause_s = min(_PAUSE_S * 2 ** min(pauses, _MAX_DOUBLINGS), _PAUSE_MAX_S)
        self._spawn(self._end_pause(partition, partition.epoch, reader, pause_s))

    async def _end_pause(self, partition: HeldPartition[StoreT], epoch: int, reader: LogReader, pause_s: float) -> None:
        await asyncio.sleep(pause_s)
        await self._lifecycle.reopen(partition, epoch, reader)

    def _refuse_bad_records(self, partition: HeldPartition[StoreT], decoded: DecodedBatch) -> None:
        """Stop a partition before a batch with too many dead letters: nothing of the batch is published or applied."""
        if not partition.is_consuming:
            return
        try:
            refuse(partition, partition.breaker.reason(decoded.dead_letters))
        except PartitionGoneError:
            partition.revoke()

    # -- applying batches --------------------------------------------------------------------------------------

    async def _work(self) -> None:
        """Apply batches until a stop is requested and no records wait; the longest waiting partition comes first."""
        while True:
            self._work_arrived.clear()
            busy = [partition for partition in self._partitions.values() if partition.applying.locked()]
            waiting = [
                partition
                for partition in self._partitions.values()
                if partition.pending.records and partition not in busy
            ]
            if not waiting:
                if self._stopping and not busy:
                    return
                await self._work_arrived.wait()
                continue
            oldest = min(waiting, key=lambda partition: partition.pending.waiting_since)
            full = next((partition for partition in waiting if self._fills_batch(partition)), None)
            left_s = oldest.pending.waiting_since + self._settings.batch_max_wait_ms / 1000 - time.monotonic()
            if full is None and left_s > 0 and not self._stopping:
                # Wait a few milliseconds for more records: one write instead of many.
                with suppress(TimeoutError):
                    # Not asyncio.wait_for: in Python 3.11 it loses a cancellation that arrives with the event.
                    async with asyncio.timeout(left_s):
                        await self._work_arrived.wait()
                continue
            await self._apply_batch(oldest if left_s <= 0 or full is None else full)

    @property
    def _max_batch_bytes(self) -> int:
        return self.intake.max_bytes // 4

    def _fills_batch(self, partition: HeldPartition[StoreT]) -> bool:
        pending = partition.pending
        return pending.records >= self._settings.batch_max_records or pending.bytes >= self._max_batch_bytes

    async def _apply_batch(self, partition: HeldPartition[StoreT]) -> None:
        """Apply a batch. If it has dead letters, a separate task does, so that no other partition waits for them."""
        await partition.applying.acquire()
        has_task = False
        try:
            store = partition.store
            batch = partition.pending.take(
                self._settings.batch_max_records, self._max_batch_bytes, self._fingerprints.end_of_batch
            )
            if store is None or not batch.records:
                return
            partition.batch = batch
            self._fingerprints.before_batch(partition.number, store.state, batch.records[0].offset)
            decoded = await self._in_thread(self._decode_and_apply, store, batch.records)
            has_tripped = partition.count_bad_records(batch.records, decoded.dead_letters)
            if not decoded.dead_letters:
                self._count(partition, batch, decoded)
            elif has_tripped:
                self._refuse_bad_records(partition, decoded)
            else:
                task = self._spawn(self._publish_and_apply(partition, store, batch, decoded))
                # Not inside the task: a task that is cancelled before its first step runs no code.
                task.add_done_callback(lambda _: self._end_batch(partition))
                has_task = True
        except (ItemLimitError, DiskFullError) as error:
            self._pause(partition, str(error))
        finally:
            if not has_task:
                self._end_batch(partition)

    def _end_batch(self, partition: HeldPartition[StoreT]) -> None:
        partition.batch = Batch()
        partition.applying.release()
        self._work_arrived.set()

    async def _publish_and_apply(
        self, partition: HeldPartition[StoreT], store: StoreT, batch: Batch, decoded: DecodedBatch
    ) -> None:
        """Publish the dead letters of a batch, and then apply it."""
        try:
            await self._dead_letters.publish(
                [letter for letter in decoded.dead_letters if letter.record.offset > partition.published_offset]
            )
            partition.published_offset = decoded.dead_letters[-1].record.offset
            await self._in_thread(apply_steps, store, decoded.steps)
            self._count(partition, batch, decoded)
        except (DeadLetterError, ItemLimitError, DiskFullError) as error:
            self._pause(partition, str(error))

    async def _in_thread(self, function: Callable[..., _ResultT], *args: object) -> _ResultT:
        return await asyncio.get_running_loop().run_in_executor(self._executor, function, *args)

    def _decode_and_apply(self, store: StoreT, records: Sequence[Record]) -> DecodedBatch:
        """Decode a batch, and apply it if it has no dead letters; runs in the applying thread."""
        decoded = decode(records, self._rules)
        if not decoded.dead_letters:
            apply_steps(store, decoded.steps)
        return decoded

    def _count(self, partition: HeldPartition[StoreT], batch: Batch, decoded: DecodedBatch) -> None:
        was_serving = partition.state is PartitionState.SERVING
        erasures = partition.count(batch, decoded)
        seconds = time.monotonic() - batch.taken_at
        self._observer.on_batch(
            AppliedBatch(partition.number, batch.records, batch.bytes, decoded, erasures, seconds, was_serving)
        )
        self._observe(partition)

    # -- observation and commit --------------------------------------------------------------------------------

    def _observe(self, partition: HeldPartition[StoreT]) -> None:
        partition.observe(has_room=self.intake.has_room(), stall_after_s=self._settings.stall_after_ms / 1000)

    async def _watch(self) -> None:
        """Observe every partition a few times a second, and commit the group's offsets at intervals."""
        commit_at = time.monotonic() + self._settings.commit_interval_ms / 1000
        while not self._stopping:
            await asyncio.sleep(_WATCH_S)
            if self._reader is not None and not self._stopping:
                self._check_partitions(self._reader)
            for partition in list(self._partitions.values()):
                self._observe(partition)
                if await self._lifecycle.check_log_end(partition):
                    self._observe(partition)
            if time.monotonic() >= commit_at:
                if self._committing is None or self._committing.done():
                    self._committing = self._spawn(self.commit())
                commit_at = time.monotonic() + self._settings.commit_interval_ms / 1000

    async def commit(self, timeout_s: float = _COMMIT_S) -> None:
        """Commit the durable offsets that have changed to the group, within `timeout_s`; a failure is only logged."""
        durable = {
            number: partition.durable_offset + 1
            for number, partition in self._partitions.items()
            if partition.is_consuming
        }
        moved = {number: offset for number, offset in durable.items() if self._committed.get(number) != offset}
        if not moved or self._reader is None:
            return
        try:
            async with asyncio.timeout(timeout_s):
                if await self._reader.commit(moved):
                    self._committed |= moved
        except TimeoutError:
            _log.warning("no answer to the group's commit: only the commit is late, not the stores", offsets=moved)

    # -- shutdown ----------------------------------------------------------------------------------------------

    async def drain(self, timeout_s: float) -> None:
        """Take no more records, apply the waiting ones, and commit the group's offsets.

        It takes at most `timeout_s`, of which the commit may use 1.5 s. After a failure it waits for nothing.
        """
        deadline = time.monotonic() + timeout_s
        self._stop()
        self._work_arrived.set()
        if self._worker is not None:
            await asyncio.wait({self._worker}, timeout=timeout_s)
            if not self._worker.done():
                _log.warning(
                    "records were not applied before the stop: they are read again after the next start",
                    waiting=self.intake.records,
                )
        if not self._failed.done():
            await self.commit(min(_LAST_COMMIT_S, max(deadline - time.monotonic(), 0.0)))

    def hide(self) -> None:
        """Give every partition away: apply nothing more, and hide the stores from new readers; they stay open."""
        self._stop()
        for partition in self._partitions.values():
            partition.revoke()
            partition.close_to_readers()

    async def close(self) -> None:
        """Close every store, also after a failure. Idempotent."""
        self._stop()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*list(self._tasks), return_exceptions=True)
        # A write in progress ends before its store is closed.
        await asyncio.to_thread(self._executor.shutdown)
        try:
            errors = []
            for partition in list(self._partitions.values()):
                try:
                    await self._release(partition)
                except Exception as error:  # noqa: BLE001 - the other stores must be closed too
                    errors.append(error)
            if errors:
                raise errors[0]
        finally:
            await self._dead_letters.close()

    def _stop(self) -> None:
        self._stopping = True
        self._lifecycle.stop()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._on_task_end)
        return task

    def _on_task_end(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # The message of a StreamError is complete; any other error needs its traceback.
            _log.error("the updater failed", why=str(error), exc_info=None if isinstance(error, StreamError) else error)
            self.fail(error)
