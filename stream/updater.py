"""The updater: fetched records become batches, batches become writes, and a partition's state says how far it is.

Every record passes here once, in the order of its partition::

    on_records -> pending (bounded) -> one batch -> decode -> dead letters acknowledged -> store -> group commit

Decoding and applying happen in one thread of their own, one batch at a time, so that the event loop is never
blocked; two such threads on two cores applied 1.1 times as much, for most of it holds the interpreter's lock. The
store's applied offset is the truth: each assignment starts behind it, whatever the group committed,
and the group's commit only follows. An exception anywhere here ends the updater (`wait` raises it), and the node
with it: a node that lives and consumes nothing is worse than none.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from operator import itemgetter
from typing import Any, Generic, Protocol, TypeVar

import structlog
from aiokafka.errors import KafkaError, KafkaTimeoutError

from lifeline.core.kafka_errors import DeadLetterError, StreamError
from lifeline.store.errors import ItemLimitError
from lifeline.stream.aio import run_to_end
from lifeline.stream.apply import apply_steps
from lifeline.stream.bad_record_breaker import BadShare
from lifeline.stream.dead_letters import DeadLetterPublisher
from lifeline.stream.decode import Decoded, Erasure, Rules, decode
from lifeline.stream.fingerprint_log import FingerprintLog
from lifeline.stream.log import Bounds, LogReader, PartitionGoneError
from lifeline.stream.observer import AppliedBatch, NoObserver, Observer
from lifeline.stream.partition import HeldPartition, PartitionState, PartitionStatus, StoreAccess, StoreT, after
from lifeline.stream.placement import LocalPartition
from lifeline.stream.record import Record, first_offset_of
from lifeline.stream.settings import UpdaterSettings

_WATCH_S = 0.25
_LOG_END_S = 1.0
_COMMIT_S = 5.0
_LAST_COMMIT_S = 1.5
_RETRY_S = 0.1
_RETRY_MAX_S = 2.0
_PAUSE_S = 1.0
_PAUSE_MAX_S = 30.0
_PAUSES_MAX = 8
_ALARMING = frozenset({PartitionState.PAUSED, PartitionState.REFUSING, PartitionState.STALLED})
_ResultT = TypeVar("_ResultT")
_StoreT_contra = TypeVar("_StoreT_contra", contravariant=True)

_log = structlog.get_logger(__name__)


async def _nobody(_partition: int) -> None:
    return None


class Directory(Protocol[_StoreT_contra]):
    """Where open stores are found by readers: `store.directory.PartitionDirectory` fits."""

    def add(self, store: _StoreT_contra, lag: Callable[[], int]) -> None:
        """Serve the store's partition from now on; `lag` gives the records still to be applied, in any thread."""

    def announce(self, partition: int) -> None:
        """Say that a partition is here and will be served once it has caught up."""

    def remove(self, partition: int, why: str = "") -> None:
        """Stop serving a partition; with `why` this node keeps it, and refuses."""


class Updater(Generic[StoreT]):
    """Holds the stores of the partitions that are assigned, and keeps them up with the log.

    Before a store is opened, `take_over` is asked for one that is open already, of a partition that was followed so
    far. A store is in the `directory` from when it has caught up with its log (with ``updater.serve`` "stale": met it)
    until its partition goes to another node, or refuses.
    All methods belong to one event loop.
    """

    def __init__(
        self,
        settings: UpdaterSettings,
        rules: Rules,
        stores: StoreAccess[StoreT],
        *,
        directory: Directory[StoreT],
        dead_letters: DeadLetterPublisher,
        take_over: Callable[[int], Awaitable[StoreT | None]] = _nobody,
        fingerprints: FingerprintLog | None = None,
        observer: Observer | None = None,
    ) -> None:
        self._settings = settings
        self._rules, self._stores = rules, stores
        self._directory = directory
        self._dead_letters = dead_letters
        self._take_over = take_over
        self._fingerprints = fingerprints or FingerprintLog(settings.fingerprint_every)
        self._observer: Observer = observer or NoObserver()
        self._held: dict[int, HeldPartition[StoreT]] = {}
        self._reader: LogReader | None = None
        self._waiting = self._waiting_bytes = 0
        self._arrived = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._stopping = False
        self._committed: dict[int, int] = {}
        self._committing: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._worker: asyncio.Task[None] | None = None
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="lifeline-apply")

    @property
    def max_waiting(self) -> int:
        """Records that may wait to be applied, of all partitions, before the transport is held back."""
        return 4 * self._settings.batch_max_records

    @property
    def max_waiting_bytes(self) -> int:
        """Bytes that may wait likewise; one write takes a quarter at most."""
        return self._settings.max_waiting_mib << 20

    def start(self) -> None:
        """Begin to work; partitions come by `on_assigned`."""
        self._worker = self._spawn(self._work())
        self._spawn(self._watch())

    async def wait(self) -> None:
        """Wait until the updater fails, and raise why."""
        await asyncio.shield(self._failed)

    def fail(self, error: BaseException) -> None:
        """End the updater with `error`, unless it has ended already."""
        if not self._failed.done():
            self._failed.set_exception(error)
            # Whoever does not wait must not be told of it again at the end of the process.
            self._failed.exception()

    def status(self) -> list[PartitionStatus]:
        """Return every partition that this node holds, or has just lost, by number; callable from any thread."""
        return [held.status() for _, held in sorted(self._held.items(), key=itemgetter(0))]

    def holds(self, partition: int) -> bool:
        """Say whether this node holds a partition, or has not closed it yet; callable from any thread."""
        return partition in self._held

    def store_of(self, partition: int) -> StoreT | None:
        """Return the open store of a partition that is held; callable from any thread."""
        held = self._held.get(partition)
        return None if held is None else held.store

    def local(self) -> dict[int, LocalPartition]:
        """Return the stores that are held, as owner; callable from any thread."""
        return {
            held.number: LocalPartition(store.applied_offset, owned=True)
            for held in list(self._held.values())
            if (store := held.store) is not None
        }

    def spoiled(self) -> frozenset[int]:
        """Return the partitions that refuse: another node's store may do better; callable from any thread."""
        return frozenset(held.number for held in list(self._held.values()) if held.refused)

    # -- what the transport tells ------------------------------------------------------------------------------

    async def on_assigned(self, partitions: frozenset[int], reader: LogReader) -> None:
        """Let go of the stores that went elsewhere, and open and position those that came."""
        self._reader = reader
        self._observer.on_assigned(partitions)
        for number in sorted(self._held.keys() - partitions):
            self._spawn(self._release(self._held[number]))
        for number in sorted(partitions):
            held = self._held.setdefault(number, HeldPartition(number))
            held.bad_share = BadShare(self._settings.bad_share_records, self._settings.max_bad_share)
            held.judged_offset = held.published_offset = -1
            self._forget(held)
            held.refused = False
            self._set_state(held, PartitionState.ASSIGNED)
            self._spawn(self._activate(held, held.epoch, reader))

    async def on_revoked(self, partitions: frozenset[int]) -> None:
        """Void what waits, and return once nothing is being applied. Stores stay open: most come back at once."""
        self._observer.on_revoked(partitions)
        for number in sorted(partitions & self._held.keys()):
            held = self._held[number]
            self._forget(held)
            self._set_state(held, PartitionState.REVOKED)
        for number in sorted(partitions & self._held.keys()):
            async with self._held[number].applying:
                pass

    async def wait_for_room(self) -> None:
        """Return when fewer than `max_waiting` records and `max_waiting_bytes` wait."""
        await self._room.wait()

    async def on_records(self, partition: int, records: Sequence[Record]) -> None:
        """Take records that follow those before; what is applied already is passed over."""
        held = self._held.get(partition)
        if held is None or not held.consuming or self._stopping:
            return
        fresh = after(records, held.next_offset)
        if len(fresh) < len(records) or first_offset_of(fresh[0]) > held.next_offset:
            if not await self._is_continuous(held, first_offset_of(records[0])):
                return
            if not fresh:
                return
        self._count_waiting(len(fresh), held.push(fresh))
        self._arrived.set()

    async def _is_continuous(self, held: HeldPartition[StoreT], first: int) -> bool:
        """Say whether records that start at `first`, and not at the next offset, may be taken.

        Control records leave such gaps, and so does a log whose start has passed the store. So the log is asked,
        and a gap is believed once it has been read twice.
        """
        epoch, reader = held.epoch, self._reader
        if reader is None:
            return False
        try:
            bounds = await self._bounds(held, epoch, reader)
            if bounds is None or not self._meets_log(held, held.next_offset, bounds):
                return False
            if first > held.next_offset and held.seen_gap != first:
                held.seen_gap = first
                await reader.resume_at(held.number, held.next_offset)
                return False
        except PartitionGoneError:
            return False
        return epoch == held.epoch

    # -- the life of a partition -------------------------------------------------------------------------------

    async def _activate(self, held: HeldPartition[StoreT], epoch: int, reader: LogReader) -> None:
        """Open the store, find the place in the log, and let records come."""
        async with held.lifecycle:
            if epoch != held.epoch:
                return
            store = held.store if held.store is not None else await self._open(held)
            if epoch != held.epoch:
                return
            try:
                bounds = await self._bounds(held, epoch, reader)
                if bounds is None:
                    return
                position = store.applied_offset + 1
                if position == 0 and bounds.start > 0:
                    position = bounds.start
                    _log.warning("a new store starts where the log does", partition=held.number, offset=position)
                if not self._meets_log(held, position, bounds):
                    return
                if self._settings.serve == "stale":
                    self._serve(held, store)
                elif not held.served:
                    self._directory.announce(held.number)
                held.next_offset, held.consuming = position, True
                held.progress_at = held.resumed_at = time.monotonic()
                held.resumed_offset, held.met_end_at = position, 0.0
                self._set_state(held, PartitionState.CATCHING_UP)
                await reader.resume_at(held.number, position)
            except PartitionGoneError:
                return
            self._look(held)

    async def _bounds(self, held: HeldPartition[StoreT], epoch: int, reader: LogReader) -> Bounds | None:
        """Ask what the log holds until the cluster answers; None when the partition is not ours any more."""
        pause_s = _RETRY_S
        while epoch == held.epoch and not self._stopping:
            try:
                bounds = await reader.bounds(held.number)
            except KafkaError as error:
                if not (error.retriable or isinstance(error, KafkaTimeoutError)):
                    raise
                why = f"the cluster does not say what the log holds ({type(error).__name__}): see to it"
                if epoch == held.epoch:
                    self._set_state(held, held.state, why)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _RETRY_MAX_S)
            else:
                if epoch != held.epoch:
                    return None
                if pause_s > _RETRY_S:
                    self._set_state(held, held.state)
                return bounds
        return None

    async def _open(self, held: HeldPartition[StoreT]) -> StoreT:
        self._set_state(held, PartitionState.RESTORING)
        held.store = await self._take_over(held.number)
        if held.store is not None:
            return held.store

        def opening() -> StoreT:
            # Set from the thread: a store that was opened is known, and will be closed, whatever happens to us.
            held.store = self._stores.open(held.number)
            return held.store

        return await run_to_end(opening)

    def _meets_log(self, held: HeldPartition[StoreT], position: int, bounds: Bounds) -> bool:
        """Say whether the log still holds what follows the store; if not, the partition refuses."""
        start, end = bounds
        held.end_offset = end
        if start <= position <= end:
            return True
        if position < start:
            why = f"the log starts at {start}, and {position} to {start - 1} were never applied: restore a snapshot"
        else:
            why = f"the log ends at {end}, before what is applied ({position - 1}): it was made anew, so replay it"
        self._refuse(held, why)
        return False

    async def _release(self, held: HeldPartition[StoreT]) -> None:
        """Close the store of a partition that is not ours any more."""
        epoch = held.epoch
        async with held.lifecycle, held.applying:
            if epoch != held.epoch:
                return
            self._set_state(held, PartitionState.REVOKED)
            self._withdraw(held)
            self._committed.pop(held.number, None)
            store, held.store = held.store, None
            self._fingerprints.forget(held.number)
            if store is not None:
                await run_to_end(self._stores.close, store)
            # The partition may have come back during the close: what activates it next finds no store, and opens one.
            if epoch == held.epoch and self._held.get(held.number) is held:
                del self._held[held.number]

    def _serve(self, held: HeldPartition[StoreT], store: StoreT) -> None:
        if not held.served:
            held.served = True
            self._directory.add(store, lambda: held.lag)

    def _withdraw(self, held: HeldPartition[StoreT], why: str = "") -> None:
        held.served = False
        self._directory.remove(held.number, why)

    def _forget(self, held: HeldPartition[StoreT]) -> None:
        records, size = held.void()
        self._count_waiting(-records, -size)

    def _count_waiting(self, records: int, size: int) -> None:
        self._waiting += records
        self._waiting_bytes += size
        if self._waiting < self.max_waiting and self._waiting_bytes < self.max_waiting_bytes:
            self._room.set()
        else:
            self._room.clear()

    def _set_state(self, held: HeldPartition[StoreT], state: PartitionState, reason: str = "") -> None:
        if (held.state, held.reason) == (state, reason) and state is not PartitionState.ASSIGNED:
            return
        held.state, held.reason = state, reason
        tell = _log.error if state in _ALARMING else _log.info
        why = {"why": reason} if reason else {}
        tell("partition", partition=held.number, state=state.value, applied_offset=held.applied_offset, **why)
        self._observer.on_state(held.number, state)

    # -- the work ----------------------------------------------------------------------------------------------

    async def _work(self) -> None:
        """Apply batches, of the partition that has waited longest, until the stop has emptied what waits."""
        while True:
            self._arrived.clear()
            busy = [held for held in self._held.values() if held.applying.locked()]
            waiting = [held for held in self._held.values() if held.pending and held not in busy]
            if not waiting:
                if self._stopping and not busy:
                    return
                await self._arrived.wait()
                continue
            held = min(waiting, key=lambda each: each.pending_since)
            full = next((each for each in waiting if self._fills_batch(each)), None)
            left_s = held.pending_since + self._settings.batch_max_wait_ms / 1000 - time.monotonic()
            if full is None and left_s > 0 and not self._stopping:
                # A few milliseconds more make one write of what would be many.
                with suppress(TimeoutError):
                    # Not asyncio.wait_for: in Python 3.11 it loses a cancellation that meets the event.
                    async with asyncio.timeout(left_s):
                        await self._arrived.wait()
                continue
            await self._apply_some(held if left_s <= 0 or full is None else full)

    def _fills_batch(self, held: HeldPartition[StoreT]) -> bool:
        most = self._settings.batch_max_records
        return held.pending_records >= most or held.pending_bytes >= self.max_waiting_bytes // 4

    async def _apply_some(self, held: HeldPartition[StoreT]) -> None:
        """Apply a batch. One with dead letters gets a task of its own, so that no other partition waits for them."""
        await held.applying.acquire()
        is_handed_on = False
        try:
            store = held.store
            records, size = held.take(
                self._settings.batch_max_records, self.max_waiting_bytes // 4, self._fingerprints.end_of_batch
            )
            self._count_waiting(-len(records), -size)
            if store is None or not records:
                return
            self._fingerprints.before_batch(held.number, store.state, records[0].offset)
            decoded = await self._in_thread(self._decode_and_apply, store, records)
            is_too_bad = held.judge(records, decoded.dead_letters)
            if not decoded.dead_letters:
                self._count(held, records, decoded)
            elif is_too_bad:
                self._refuse_bad_records(held, decoded)
            else:
                task = self._spawn(self._publish_and_apply(held, store, records, decoded))
                # Not in the task: one that is cancelled before its first step runs none of its own code.
                task.add_done_callback(lambda _: self._end_batch(held))
                is_handed_on = True
        except ItemLimitError as error:
            self._pause(held, str(error))
        finally:
            if not is_handed_on:
                held.applying.release()

    def _end_batch(self, held: HeldPartition[StoreT]) -> None:
        held.applying.release()
        self._arrived.set()

    async def _publish_and_apply(
        self, held: HeldPartition[StoreT], store: StoreT, records: Sequence[Record], decoded: Decoded
    ) -> None:
        """Apply a batch once its dead letters are safe."""
        try:
            await self._dead_letters.publish(
                [letter for letter in decoded.dead_letters if letter.record.offset > held.published_offset]
            )
            held.published_offset = decoded.dead_letters[-1].record.offset
            await self._in_thread(apply_steps, store, decoded.steps)
            self._count(held, records, decoded)
        except (DeadLetterError, ItemLimitError) as error:
            self._pause(held, str(error))

    async def _in_thread(self, function: Callable[..., _ResultT], *args: object) -> _ResultT:
        return await asyncio.get_running_loop().run_in_executor(self._executor, function, *args)

    def _refuse_bad_records(self, held: HeldPartition[StoreT], decoded: Decoded) -> None:
        """Stop a partition before a batch that has too many dead letters: nothing of it is published or applied."""
        share, first = held.bad_share, decoded.dead_letters[0]
        reasons = Counter(letter.reason.value for letter in decoded.dead_letters)
        counted = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
        with suppress(PartitionGoneError):
            self._refuse(
                held,
                f"{share.bad} of the last {share.seen} records are bad (now {counted}; offset {first.record.offset}: "
                f"{first.message}): correct the producer, or raise updater.max_bad_share to make them dead letters, "
                "and restart the node",
            )

    def _refuse(self, held: HeldPartition[StoreT], why: str) -> None:
        """Take no more of a partition, and answer nobody, until an operator has acted. Raises PartitionGoneError."""
        if self._reader is not None:
            self._reader.pause(held.number)
        self._forget(held)
        self._withdraw(held, why)
        held.refused = True
        self._set_state(held, PartitionState.REFUSING, why)

    def _pause(self, held: HeldPartition[StoreT], why: str) -> None:
        """Take no more of a partition for a while: what was fetched comes again. Its readers are answered."""
        # Nothing looks at the end of the log during the pause, and readers are told how far behind they are.
        held.end_offset = max(held.end_offset, held.next_offset)
        self._forget(held)
        reader = self._reader
        if reader is None:
            return
        with suppress(PartitionGoneError):
            reader.pause(held.number)
            if held.state is not PartitionState.PAUSED:
                held.pause_ends_in = held.state
            pause_s = min(_PAUSE_S * 2**held.pauses, _PAUSE_MAX_S)
            held.pauses = min(held.pauses + 1, _PAUSES_MAX)
            self._set_state(held, PartitionState.PAUSED, why)
            self._spawn(self._end_pause(held, held.epoch, reader, pause_s))

    async def _end_pause(self, held: HeldPartition[StoreT], epoch: int, reader: LogReader, pause_s: float) -> None:
        """Let records come again after a while, unless the partition is not ours any more."""
        await asyncio.sleep(pause_s)
        with suppress(PartitionGoneError):
            position = max(held.applied_offset + 1, held.resumed_offset)
            bounds = await self._bounds(held, epoch, reader)
            if bounds is None or not self._meets_log(held, position, bounds):
                return
            held.next_offset, held.consuming = position, True
            await reader.resume_at(held.number, held.next_offset)

    def _decode_and_apply(self, store: StoreT, records: Sequence[Record]) -> Decoded:
        """Decode, and apply at once unless dead letters have to be safe first; runs in the applying thread."""
        decoded = decode(records, self._rules)
        if not decoded.dead_letters:
            apply_steps(store, decoded.steps)
        return decoded

    def _count(self, held: HeldPartition[StoreT], records: Sequence[Record], decoded: Decoded) -> None:
        now, was_serving = time.monotonic(), held.state is PartitionState.SERVING
        erasures = sum(isinstance(step, Erasure) for step in decoded.steps)
        held.batches += 1
        held.records += len(records)
        held.events += decoded.actions
        held.erasures += erasures
        held.dead_letters.update(letter.reason for letter in decoded.dead_letters)
        held.newest_ms = records[-1].timestamp
        held.progress_at = now
        held.pauses = 0
        if held.state is PartitionState.PAUSED:
            self._set_state(held, held.pause_ends_in)
        at, size, _ = held.taken
        self._observer.on_batch(AppliedBatch(held.number, records, size, decoded, erasures, now - at, was_serving))
        self._look(held)

    # -- the watch ---------------------------------------------------------------------------------------------

    def _look(self, held: HeldPartition[StoreT]) -> None:
        """Bring lag and state up to date with what is known."""
        if self._reader is None or not held.consuming:
            return
        held.end_offset = max(held.end_offset, self._reader.known_end(held.number) or 0, held.applied_offset + 1)
        if held.lag == 0:
            held.progress_at = time.monotonic()
            held.caught_up_ms = time.time_ns() // 1_000_000
            held.met_end_at = held.met_end_at or held.progress_at
            if held.store is not None:
                self._serve(held, held.store)
            self._set_state(held, PartitionState.SERVING)
            return
        if held.state is PartitionState.PAUSED:
            return
        here = held.pending or held.applying.locked() or not self._room.is_set()
        if not here and not self._reader.connected(held.number):
            # The cluster is away: nothing can be applied, so this time does not count.
            held.progress_at = time.monotonic()
        idle_s = time.monotonic() - held.progress_at
        if idle_s > self._settings.stall_after_ms / 1000:
            why = f"{held.lag} records wait, and none was applied for {idle_s:.0f} s: see to disk and cluster"
            if held.state is not PartitionState.STALLED:
                self._set_state(held, PartitionState.STALLED, why)
        elif held.state is PartitionState.STALLED:
            self._set_state(held, PartitionState.CATCHING_UP)

    async def _check_log_end(self, held: HeldPartition[StoreT]) -> None:
        """Find out whether a lag that nothing comes for are control records, which no fetch hands over.

        Like a gap, it is believed once the log has been read twice.
        """
        reader, now = self._reader, time.monotonic()
        idle = held.consuming and held.lag > 0 and not held.pending and not held.applying.locked()
        if reader is None or not idle or now - held.progress_at < _LOG_END_S:
            return
        if (reader.position(held.number) or 0) < held.end_offset:
            return
        end, since = held.seen_end
        if end != held.end_offset:
            held.seen_end = (held.end_offset, now)
            with suppress(PartitionGoneError):
                await reader.resume_at(held.number, held.next_offset)
        elif now - since >= _LOG_END_S:
            held.passed_offset = held.end_offset
            self._look(held)

    async def _watch(self) -> None:
        """Look at every partition a few times a second, and let the group's commit follow."""
        commit_at = time.monotonic() + self._settings.commit_interval_ms / 1000
        while not self._stopping:
            await asyncio.sleep(_WATCH_S)
            for held in list(self._held.values()):
                self._look(held)
                await self._check_log_end(held)
            if time.monotonic() >= commit_at:
                if self._committing is None or self._committing.done():
                    self._committing = self._spawn(self.commit())
                commit_at = time.monotonic() + self._settings.commit_interval_ms / 1000

    async def commit(self, timeout_s: float = _COMMIT_S) -> None:
        """Set the group's offsets to what is durable, where that has moved; best effort, within `timeout_s`."""
        now = {number: held.durable_offset + 1 for number, held in self._held.items() if held.consuming}
        moved = {number: offset for number, offset in now.items() if self._committed.get(number) != offset}
        if not moved or self._reader is None:
            return
        try:
            async with asyncio.timeout(timeout_s):
                if await self._reader.commit(moved):
                    self._committed |= moved
        except TimeoutError:
            _log.warning("the group's commit had no answer: it alone is behind, the stores are not", offsets=moved)

    # -- the end -----------------------------------------------------------------------------------------------

    async def drain(self, timeout_s: float) -> None:
        """Take no more records, and return once what waits is applied and the group's commit has followed.

        It takes at most `timeout_s`, of which the commit gets little. After a failure there is nothing to wait for.
        """
        deadline = time.monotonic() + timeout_s
        self._stopping = True
        self._arrived.set()
        if self._worker is not None:
            await asyncio.wait({self._worker}, timeout=timeout_s)
            if not self._worker.done():
                _log.warning("records are not applied before the stop: they come again", waiting=self._waiting)
        if not self._failed.done():
            await self.commit(min(_LAST_COMMIT_S, max(deadline - time.monotonic(), 0.0)))

    async def close(self) -> None:
        """Close every store, whatever has happened before. Idempotent."""
        self._stopping = True
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*list(self._tasks), return_exceptions=True)
        # A write that is under way ends before its store is closed.
        await asyncio.to_thread(self._executor.shutdown)
        try:
            failed = []
            for held in list(self._held.values()):
                self._forget(held)
                try:
                    await self._release(held)
                except Exception as error:  # noqa: BLE001 - one that does not close keeps no other open
                    failed.append(error)
            if failed:
                raise failed[0]
        finally:
            await self._dead_letters.close()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # What we raise ourselves says all there is to say; for the rest the place matters.
            _log.error("the updater failed", why=str(error), exc_info=None if isinstance(error, StreamError) else error)
            self.fail(error)
