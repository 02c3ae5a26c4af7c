"""The standby follower: it applies the log to stores of partitions that other nodes own, to take them over at once.

It applies the same records by the same rules as the owner, but publishes nothing. It skips a bad record only after the
group's commit has passed it, because then the owner has published its dead letter. Until then the follower waits before
the record, so that a takeover loses no dead letter.

It compares its fingerprints with the owner's at equal offsets. Where they differ, one of the two stores is wrong: the
follower logs an error, stops following the partition, and no longer offers its store for a takeover.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Generic

import structlog
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError, OffsetOutOfRangeError

from lifeline.core.kafka_errors import TransportError
from lifeline.core.kafka_settings import KafkaSettings
from lifeline.store.errors import DiskFullError, ItemLimitError
from lifeline.stream.aio import end_within, run_to_end
from lifeline.stream.apply import apply_steps
from lifeline.stream.decode import Rules, decode
from lifeline.stream.fingerprint_log import Fingerprint, FingerprintLog, first_difference
from lifeline.stream.log_consumer import LogConsumer
from lifeline.stream.placement import LocalPartition, Placement
from lifeline.stream.record import Record, records_from
from lifeline.stream.settings import UpdaterSettings
from lifeline.stream.standby_status import StandbyState, StandbyStatus
from lifeline.stream.stores import Store, StoreAccess, StoreT

_IDLE_S = 0.1
_POLL_MS = 250
_RETRY_S = 0.5
_FULL_DISK_S = 10.0
_COMPARE_S = 5.0
_ASK_S = 5.0
_ASK_COMMITTED_S = 1.0
_STOP_S = 3.0

_log = structlog.get_logger(__name__)

AskOwner = Callable[[str, Sequence[int]], Awaitable[Mapping[int, Sequence[Fingerprint]]]]
"""Returns the fingerprints of those of the partitions that the node at an address has, or raises ConnectionError."""


@dataclass(slots=True, eq=False)
class _Standby(Generic[StoreT]):
    """A followed partition. It belongs to the event loop."""

    number: int
    store: StoreT | None = None
    state: StandbyState = StandbyState.FOLLOWING
    reason: str = ""
    next_offset: int = 0
    end_offset: int = 0
    trimmed_before: int = 0
    """The first offset of the log when the store was empty; 0 if the log then still had its first record."""
    needs_seek: bool = True
    """Whether the consumer's position is not `next_offset`."""
    not_before: float = 0.0
    """When to read the log again, seconds on the monotonic clock."""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while the store is being opened, written or closed."""

    @property
    def applied_offset(self) -> int:
        return -1 if self.store is None else self.store.applied_offset

    def wait(self, seconds: float, reason: str = "") -> None:
        """Read the log again in a while, after the last offset that is applied."""
        self.state, self.reason, self.needs_seek = StandbyState.WAITING, reason, True
        self.next_offset = max(self.next_offset, self.applied_offset + 1)
        self.not_before = time.monotonic() + seconds


class StandbyFollower(Generic[StoreT]):
    """Follows the partitions that the placement assigns to this node.

    `is_held` returns whether the updater still has a partition's store; the follower opens it only if not. All methods
    belong to one event loop, unless they say otherwise.
    """

    def __init__(
        self,
        kafka: KafkaSettings,
        settings: UpdaterSettings,
        rules: Rules,
        stores: StoreAccess[StoreT],
        *,
        is_held: Callable[[int], bool],
        fingerprints: FingerprintLog,
        ask_owner: AskOwner,
    ) -> None:
        self._kafka, self._settings, self._rules, self._stores = kafka, settings, rules, stores
        self._is_held = is_held
        self._fingerprints, self._ask_owner = fingerprints, ask_owner
        self._targets: frozenset[int] = frozenset()
        self._owners: dict[int, str] = {}
        self._standbys: dict[int, _Standby[StoreT]] = {}
        self._wake = asyncio.Event()
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []
        self._consumer: LogConsumer | None = None
        self._assigned: frozenset[int] = frozenset()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="lifeline-follow")
        self._suspension = ""
        self.mismatches = 0
        """The number of fingerprints that differed from the owner's."""

    def start(self) -> None:
        """Start the tasks; `on_placement` sets the partitions to follow."""
        self._tasks = [asyncio.create_task(self._follow()), asyncio.create_task(self._compare())]

    async def wait(self) -> None:
        """Wait until the follower ends, and raise the error that ended it."""
        done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()

    def on_placement(self, placement: Placement) -> None:
        """Follow exactly the partitions of the placement, each as soon as the updater has closed its store."""
        self._targets, self._owners = placement.follow, dict(placement.owners)
        self._wake.set()

    def suspend(self, why: str) -> None:
        """Apply nothing more: partitions were added to the topic. The stores can still take over."""
        self._suspension = why
        for standby in self._standbys.values():
            if standby.state.is_active:
                standby.state, standby.reason = StandbyState.PAUSED, why

    def status(self) -> list[StandbyStatus]:
        """Return the status of every followed partition, by number; callable from any thread."""
        return [
            StandbyStatus(
                standby.number,
                standby.state,
                standby.applied_offset,
                max(0, standby.end_offset - standby.next_offset) if standby.state.is_active else 0,
                standby.reason,
            )
            for _, standby in sorted(self._standbys.items(), key=itemgetter(0))
        ]

    def local_partitions(self) -> dict[int, LocalPartition]:
        """Return the stores that can take over; callable from any thread."""
        return {
            standby.number: LocalPartition(store.applied_offset, owned=False)
            for standby in list(self._standbys.values())
            if (store := standby.store) is not None and standby.state.is_active
        }

    def unusable_stores(self) -> frozenset[int]:
        """Return the partitions whose stores on this node's disk must not take over; callable from any thread."""
        return frozenset(standby.number for standby in list(self._standbys.values()) if not standby.state.is_active)

    async def release(self, partition: int) -> StoreT | None:
        """Stop following a partition and return its open store, which the caller then owns; None if there is none.

        There is no await between the removal of the store and the return, so a cancellation cannot lose it.
        """
        standby = self._standbys.get(partition)
        if standby is None:
            return None
        async with standby.lock:
            if self._standbys.get(partition) is standby:
                del self._standbys[partition]
            store, standby.store = standby.store, None
        return store

    def store_of(self, partition: int) -> StoreT | None:
        """Return the open store of a partition that is followed; callable from any thread."""
        standby = self._standbys.get(partition)
        return None if standby is None else standby.store

    async def stop(self, timeout_s: float) -> None:
        """Stop following, and close the stores. An unreachable cluster is no error. Idempotent."""
        self._stopping = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        # A write in progress ends before its store is closed.
        await asyncio.to_thread(self._executor.shutdown)
        for standby in list(self._standbys.values()):
            await self._leave(standby)
            self._standbys.pop(standby.number, None)
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await end_within(consumer.stop(), min(_STOP_S, timeout_s))

    # -- following ---------------------------------------------------------------------------------------------

    async def _follow(self) -> None:
        while True:
            await self._reconcile()
            ready = self._ready()
            if not ready:
                self._wake.clear()
                with suppress(TimeoutError):
                    # Not asyncio.wait_for: in Python 3.11 it loses a cancellation that arrives with the event.
                    async with asyncio.timeout(_IDLE_S if self._targets else None):
                        await self._wake.wait()
                continue
            try:
                await self._read(ready)
            except KafkaError as error:
                if not error.retriable:
                    raise TransportError(f"the log cannot be read ({error!r}): start the node again") from error
                _log.warning("the log cannot be read now", why=str(error) or type(error).__name__)
                await asyncio.sleep(_RETRY_S)

    async def _reconcile(self) -> None:
        """Stop following partitions that left the placement, and open new ones that the updater does not hold."""
        for standby in list(self._standbys.values()):
            if standby.number not in self._targets:
                await self._leave(standby)
                self._standbys.pop(standby.number, None)
        for number in sorted(self._targets - self._standbys.keys()):
            if not self._is_held(number):
                await self._join(number)

    async def _join(self, number: int) -> None:
        standby: _Standby[StoreT] = _Standby(number)
        self._standbys[number] = standby
        async with standby.lock:

            def open_store() -> None:
                # Set in the thread, so that the store is closed even when this task was cancelled while it opened.
                standby.store = self._stores.open(number)

            await run_to_end(open_store)
            standby.next_offset = standby.applied_offset + 1
        if self._suspension:
            standby.state, standby.reason = StandbyState.PAUSED, self._suspension
        _log.info("standby", partition=number, state=standby.state.value, applied_offset=standby.applied_offset)

    async def _leave(self, standby: _Standby[StoreT]) -> None:
        async with standby.lock:
            store, standby.store = standby.store, None
            if store is not None:
                await run_to_end(self._stores.close, store)
        if not self._is_held(standby.number):
            self._fingerprints.forget(standby.number)

    def _ready(self) -> list[_Standby[StoreT]]:
        now = time.monotonic()
        return [
            standby
            for standby in self._standbys.values()
            if standby.store is not None and standby.state.applies and now >= standby.not_before
        ]

    async def _read(self, ready: Sequence[_Standby[StoreT]]) -> None:
        consumer = await self._connect()
        await self._position(consumer, ready)
        tps = [self._tp(standby.number) for standby in ready if standby.state.applies]
        if not tps:
            return
        try:
            fetched = await consumer.getmany(*tps, timeout_ms=_POLL_MS, max_records=self._settings.batch_max_records)
        except OffsetOutOfRangeError as error:
            for tp in error.args[0] if error.args and isinstance(error.args[0], dict) else tps:
                if (standby := self._standbys.get(tp.partition)) is not None:
                    standby.needs_seek = True
            return
        for standby in ready:
            tp = self._tp(standby.number)
            standby.end_offset = consumer.highwater(tp) or standby.end_offset
            if records := fetched.get(tp):
                try:
                    await self._apply(standby, records)
                except ItemLimitError as error:
                    self._give_up(standby, StandbyState.REFUSING, str(error))
                except DiskFullError as error:
                    if not standby.reason:
                        _log.error("standby", partition=standby.number, state="waiting", why=str(error))
                    standby.wait(_FULL_DISK_S, str(error))

    async def _connect(self) -> LogConsumer:
        if self._consumer is None:
            # It does not join the group, and needs the group id only to read its commits.
            consumer = LogConsumer(
                **self._kafka.consumer_options(),
                group_id=self._kafka.group_id,
                auto_offset_reset="none",
                max_partition_fetch_bytes=self._settings.fetch_max_bytes,
                fetch_max_wait_ms=_POLL_MS,
            )
            try:
                await consumer.start()
            except BaseException:
                await end_within(consumer.stop(), _STOP_S)
                raise
            self._consumer, self._assigned = consumer, frozenset()
        return self._consumer

    async def _position(self, consumer: LogConsumer, ready: Sequence[_Standby[StoreT]]) -> None:
        """Assign the followed partitions to the consumer, and seek those whose position has changed."""
        numbers = frozenset(standby.number for standby in self._standbys.values() if standby.state.applies)
        if numbers != self._assigned:
            consumer.assign([self._tp(number) for number in sorted(numbers)])
            self._assigned = numbers
            for standby in self._standbys.values():
                standby.needs_seek = True
        moved = [standby for standby in ready if standby.needs_seek and standby.number in numbers]
        if not moved:
            return
        tps = [self._tp(standby.number) for standby in moved]
        starts, ends = await consumer.beginning_offsets(tps), await consumer.end_offsets(tps)
        for standby, tp in zip(moved, tps, strict=True):
            if standby.next_offset == 0 and starts[tp] > 0:
                standby.next_offset = standby.trimmed_before = starts[tp]
            if not starts[tp] <= standby.next_offset <= ends[tp]:
                self._give_up(
                    standby,
                    StandbyState.REFUSING,
                    f"the log holds {starts[tp]} to {ends[tp] - 1}, and {standby.next_offset} is next: set the "
                    "directory of the partition aside and start the node again, or restore a snapshot",
                )
                continue
            consumer.seek(tp, standby.next_offset)
            standby.end_offset, standby.needs_seek = ends[tp], False

    async def _apply(self, standby: _Standby[StoreT], fetched: Sequence[Record]) -> None:
        async with standby.lock:
            records = records_from(fetched, standby.next_offset)
            if self._standbys.get(standby.number) is not standby or not standby.state.applies:
                # It was released or stopped during the fetch.
                return
            while records and standby.store is not None:
                end = self._fingerprints.end_of_batch(records[0].offset)
                batch = [record for record in records if record.offset < end]
                applied = await self._run(self._decode_and_apply, standby.store, standby.number, batch, -1)
                if applied < len(batch):
                    committed = await self._committed(standby.number)
                    applied += await self._run(
                        self._decode_and_apply, standby.store, standby.number, batch[applied:], committed
                    )
                if applied:
                    standby.next_offset = batch[applied - 1].offset + 1
                if self._suspension:
                    return
                if applied < len(batch):
                    standby.wait(_RETRY_S)
                    return
                standby.state, standby.reason = StandbyState.FOLLOWING, ""
                records = records[len(batch) :]

    async def _run(self, function: Callable[..., int], *args: object) -> int:
        return await asyncio.get_running_loop().run_in_executor(self._executor, function, *args)

    def _decode_and_apply(self, store: Store, number: int, records: Sequence[Record], published: int) -> int:
        """Apply records up to the first bad one at or above `published`, and return the number of records."""
        decoded = decode(records, self._rules)
        bad_offset = next(
            (letter.record.offset for letter in decoded.dead_letters if letter.record.offset >= published), None
        )
        if bad_offset is not None:
            records = [record for record in records if record.offset < bad_offset]
            if not records:
                return 0
            decoded = decode(records, self._rules)
        self._fingerprints.before_batch(number, store.state, records[0].offset)
        apply_steps(store, decoded.steps)
        return len(records)

    async def _committed(self, number: int) -> int:
        """Return the group's commit: before it, the owner has applied all records and published all dead letters."""
        consumer = await self._connect()
        # Without a coordinator the client retries forever, and a takeover would wait for it.
        with suppress(TimeoutError):
            async with asyncio.timeout(_ASK_COMMITTED_S):
                return int(await consumer.committed(self._tp(number)) or 0)
        return 0

    def _tp(self, number: int) -> TopicPartition:
        return TopicPartition(self._kafka.actions_topic, number)

    # -- comparing ---------------------------------------------------------------------------------------------

    async def _compare(self) -> None:
        while True:
            await asyncio.sleep(_COMPARE_S)
            by_owner: dict[str, list[_Standby[StoreT]]] = {}
            for standby in self._standbys.values():
                if standby.state.is_active and standby.number in self._owners:
                    by_owner.setdefault(self._owners[standby.number], []).append(standby)
            for owner, followed in by_owner.items():
                try:
                    async with asyncio.timeout(_ASK_S):
                        remote = await self._ask_owner(owner, [standby.number for standby in followed])
                except (ConnectionError, TimeoutError) as error:
                    _log.debug("no fingerprints to compare with", owner=owner, why=str(error))
                    continue
                for standby in followed:
                    await self._compare_with_owner(standby, owner, remote.get(standby.number, ()))

    async def _compare_with_owner(self, standby: _Standby[StoreT], owner: str, remote: Sequence[Fingerprint]) -> None:
        async with standby.lock:
            store = standby.store
            if store is None or self._standbys.get(standby.number) is not standby or not standby.state.is_active:
                return
            mismatch = first_difference(self._fingerprints.of(standby.number, store.state), remote)
            if mismatch is None:
                return
            self.mismatches += 1
            why = (
                f"below offset {mismatch.offset} this node's fingerprint is {mismatch.local:032x}, and the owner's at "
                f"{owner} is {mismatch.remote:032x}"
            )
            advice = "find out with `lifeline verify` on both which is wrong, and replay that one"
            if standby.trimmed_before:
                advice = (
                    f"the log had no records before offset {standby.trimmed_before} when this node began; set the "
                    "directory of the partition aside and restore a snapshot of the owner's"
                )
            self._give_up(standby, StandbyState.DIVERGED, f"{why}: {advice}")

    def _give_up(self, standby: _Standby[StoreT], state: StandbyState, why: str) -> None:
        standby.state, standby.reason = state, why
        _log.error(
            "standby", partition=standby.number, state=state.value, applied_offset=standby.applied_offset, why=why
        )
