"""The standby follower: it keeps stores of partitions that other nodes own up with the log, to take over at once.

It reads the same records by the same rules as the owner, but publishes nothing: a bad record is passed over only once
the group's commit has passed it, for then the owner has published its dead letter. Until then the follower waits in
front of it, so that a takeover loses none.

Its fingerprints are compared with the owner's at equal offsets. Where they differ one of the two is wrong: the
follower raises the alarm, leaves the partition, and does not offer its store for a takeover any more.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from operator import itemgetter
from typing import Generic

import structlog
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError, OffsetOutOfRangeError

from lifeline.core.kafka_errors import TransportError
from lifeline.core.kafka_settings import KafkaSettings
from lifeline.store.errors import ItemLimitError
from lifeline.stream.aio import end_within, run_to_end
from lifeline.stream.apply import apply_steps
from lifeline.stream.decode import Rules, decode
from lifeline.stream.fingerprint_log import Fingerprint, FingerprintLog, first_difference
from lifeline.stream.log_consumer import LogConsumer
from lifeline.stream.placement import LocalPartition, Placement
from lifeline.stream.record import Record, records_from
from lifeline.stream.settings import UpdaterSettings
from lifeline.stream.stores import Store, StoreAccess, StoreT

_IDLE_S = 0.1
_POLL_MS = 250
_RETRY_S = 0.5
_COMPARE_S = 5.0
_ASK_S = 5.0
_ASK_COMMITTED_S = 1.0
_STOP_S = 3.0

_log = structlog.get_logger(__name__)

AskOwner = Callable[[str, Sequence[int]], Awaitable[Mapping[int, Sequence[Fingerprint]]]]
"""Asks the node at an address for its fingerprints of partitions; gives those that it holds, or ConnectionError."""


class StandbyState(StrEnum):
    """Where a partition that is followed stands."""

    FOLLOWING = "following"
    """It is kept up with the log."""
    WAITING = "waiting"
    """Its next record is bad, and its dead letter is not known to be published yet."""
    REFUSING = "refusing"
    """Its store and the log no longer meet; an operator has to act."""
    DIVERGED = "diverged"
    """Its fingerprint is not the owner's; an operator has to find out which of the two is wrong."""

    @property
    def at_work(self) -> bool:
        """Whether the partition is still kept up, and could be taken over."""
        return self in {StandbyState.FOLLOWING, StandbyState.WAITING}


@dataclass(frozen=True, slots=True)
class StandbyStatus:
    """One followed partition at one moment."""

    partition: int
    state: StandbyState
    applied_offset: int
    """The last offset applied; -1 before the first."""
    lag: int
    """Records of the log that are not applied yet, as far as is known."""
    reason: str
    """Why it refuses or has diverged; empty otherwise."""


@dataclass(slots=True, eq=False)
class _Followed(Generic[StoreT]):
    """A partition that is followed. It lives in the event loop alone."""

    number: int
    store: StoreT | None = None
    state: StandbyState = StandbyState.FOLLOWING
    reason: str = ""
    next_offset: int = 0
    end_offset: int = 0
    trimmed_before: int = 0
    """Where the log began when this store was empty, unless that was its first record."""
    seek: bool = True
    """Whether the consumer stands elsewhere than at `next_offset`."""
    not_before: float = 0.0
    """When the log is to be asked again, on the monotonic clock."""
    busy: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while the store is being opened, written or closed."""

    @property
    def applied_offset(self) -> int:
        return -1 if self.store is None else self.store.applied_offset


class StandbyFollower(Generic[StoreT]):
    """Follows what the placement says.

    `is_held` says whether the updater still has a store of a partition: it is opened here only once it has not.
    All methods belong to one event loop.
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
        self._wanted: frozenset[int] = frozenset()
        self._owners: dict[int, str] = {}
        self._followed: dict[int, _Followed[StoreT]] = {}
        self._wake = asyncio.Event()
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []
        self._consumer: LogConsumer | None = None
        self._assigned: frozenset[int] = frozenset()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="lifeline-follow")
        self.mismatches = 0
        """How often a fingerprint was not the owner's."""

    def start(self) -> None:
        """Begin to follow; what, `on_placement` says."""
        self._tasks = [asyncio.create_task(self._follow()), asyncio.create_task(self._compare())]

    async def wait(self) -> None:
        """Wait for as long as all is well; raises what ended the follower."""
        done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()

    def on_placement(self, placement: Placement) -> None:
        """Follow exactly what the placement says, as soon as it is free."""
        self._wanted, self._owners = placement.follow, dict(placement.owners)
        self._wake.set()

    def status(self) -> list[StandbyStatus]:
        """Return every partition that is followed, by number; callable from any thread."""
        return [
            StandbyStatus(
                one.number,
                one.state,
                one.applied_offset,
                max(0, one.end_offset - one.next_offset) if one.state.at_work else 0,
                one.reason,
            )
            for _, one in sorted(self._followed.items(), key=itemgetter(0))
        ]

    def local(self) -> dict[int, LocalPartition]:
        """Return the stores that could take over; callable from any thread."""
        return {
            one.number: LocalPartition(store.applied_offset, owned=False)
            for one in list(self._followed.values())
            if (store := one.store) is not None and one.state.at_work
        }

    def spoiled(self) -> frozenset[int]:
        """Return the partitions whose stores on this node's disk must not take over; callable from any thread."""
        return frozenset(one.number for one in list(self._followed.values()) if not one.state.at_work)

    async def take(self, partition: int) -> StoreT | None:
        """Stop following a partition and hand its open store over; None when there is none.

        Nothing is awaited between the handing over and the return: a cancellation cannot lose the store.
        """
        one = self._followed.get(partition)
        if one is None:
            return None
        async with one.busy:
            if self._followed.get(partition) is one:
                del self._followed[partition]
            store, one.store = one.store, None
        return store

    def store_of(self, partition: int) -> StoreT | None:
        """Return the open store of a partition that is followed; callable from any thread."""
        one = self._followed.get(partition)
        return None if one is None else one.store

    async def stop(self, timeout_s: float) -> None:
        """Stop following, and close the stores. Raises nothing for a cluster that is away. Idempotent."""
        self._stopping = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        # A write that is under way ends before its store is closed.
        await asyncio.to_thread(self._executor.shutdown)
        for one in list(self._followed.values()):
            await self._leave(one)
            self._followed.pop(one.number, None)
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
                    # Not asyncio.wait_for: in Python 3.11 it loses a cancellation that meets the event.
                    async with asyncio.timeout(_IDLE_S if self._wanted else None):
                        await self._wake.wait()
                continue
            try:
                await self._read(ready)
            except KafkaError as error:
                if not error.retriable:
                    raise TransportError(f"the log cannot be followed ({error!r}): start the node again") from error
                _log.warning("the log cannot be followed now", why=str(error) or type(error).__name__)
                await asyncio.sleep(_RETRY_S)

    async def _reconcile(self) -> None:
        """Leave what is not wanted any more, and open what is wanted and free."""
        for one in list(self._followed.values()):
            if one.number not in self._wanted:
                await self._leave(one)
                self._followed.pop(one.number, None)
        for number in sorted(self._wanted - self._followed.keys()):
            if not self._is_held(number):
                await self._join(number)

    async def _join(self, number: int) -> None:
        one: _Followed[StoreT] = _Followed(number)
        self._followed[number] = one
        async with one.busy:

            def opening() -> None:
                # Set from the thread: a store that was opened is known, and will be closed, whatever happens to us.
                one.store = self._stores.open(number)

            await run_to_end(opening)
            one.next_offset = one.applied_offset + 1
        _log.info("standby", partition=number, state=one.state.value, applied_offset=one.applied_offset)

    async def _leave(self, one: _Followed[StoreT]) -> None:
        async with one.busy:
            store, one.store = one.store, None
            if store is not None:
                await run_to_end(self._stores.close, store)
        if not self._is_held(one.number):
            self._fingerprints.forget(one.number)

    def _ready(self) -> list[_Followed[StoreT]]:
        now = time.monotonic()
        return [
            one
            for one in self._followed.values()
            if one.store is not None and one.state.at_work and now >= one.not_before
        ]

    async def _read(self, ready: Sequence[_Followed[StoreT]]) -> None:
        consumer = await self._connected()
        await self._position(consumer, ready)
        tps = [self._tp(one.number) for one in ready if one.state.at_work]
        if not tps:
            return
        try:
            fetched = await consumer.getmany(*tps, timeout_ms=_POLL_MS, max_records=self._settings.batch_max_records)
        except OffsetOutOfRangeError as error:
            for tp in error.args[0] if error.args and isinstance(error.args[0], dict) else tps:
                if (one := self._followed.get(tp.partition)) is not None:
                    one.seek = True
            return
        for one in ready:
            tp = self._tp(one.number)
            one.end_offset = consumer.highwater(tp) or one.end_offset
            if records := fetched.get(tp):
                try:
                    await self._apply(one, records)
                except ItemLimitError as error:
                    self._give_up(one, StandbyState.REFUSING, str(error))

    async def _connected(self) -> LogConsumer:
        if self._consumer is None:
            # It never joins the group: it reads the group's commits.
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

    async def _position(self, consumer: LogConsumer, ready: Sequence[_Followed[StoreT]]) -> None:
        """Bring what the client reads, and from where, in line with what is followed."""
        numbers = frozenset(one.number for one in self._followed.values() if one.state.at_work)
        if numbers != self._assigned:
            consumer.assign([self._tp(number) for number in sorted(numbers)])
            self._assigned = numbers
            for one in self._followed.values():
                one.seek = True
        moved = [one for one in ready if one.seek and one.number in numbers]
        if not moved:
            return
        tps = [self._tp(one.number) for one in moved]
        starts, ends = await consumer.beginning_offsets(tps), await consumer.end_offsets(tps)
        for one, tp in zip(moved, tps, strict=True):
            if one.next_offset == 0 and starts[tp] > 0:
                one.next_offset = one.trimmed_before = starts[tp]
            if not starts[tp] <= one.next_offset <= ends[tp]:
                self._give_up(
                    one,
                    StandbyState.REFUSING,
                    f"the log holds {starts[tp]} to {ends[tp] - 1}, and {one.next_offset} is next: set the directory "
                    "of the partition aside and start the node again, or restore a snapshot",
                )
                continue
            consumer.seek(tp, one.next_offset)
            one.end_offset, one.seek = ends[tp], False

    async def _apply(self, one: _Followed[StoreT], fetched: Sequence[Record]) -> None:
        async with one.busy:
            records = records_from(fetched, one.next_offset)
            if self._followed.get(one.number) is not one or not one.state.at_work:
                # It was given away or given up while this was fetched.
                return
            while records and one.store is not None:
                end = self._fingerprints.end_of_batch(records[0].offset)
                batch = [record for record in records if record.offset < end]
                applied = await self._run(self._decode_and_apply, one.store, one.number, batch, -1)
                if applied < len(batch):
                    committed = await self._committed(one.number)
                    applied += await self._run(
                        self._decode_and_apply, one.store, one.number, batch[applied:], committed
                    )
                if applied:
                    one.next_offset = batch[applied - 1].offset + 1
                if applied < len(batch):
                    one.state, one.seek, one.not_before = StandbyState.WAITING, True, time.monotonic() + _RETRY_S
                    return
                one.state = StandbyState.FOLLOWING
                records = records[len(batch) :]

    async def _run(self, function: Callable[..., int], *args: object) -> int:
        return await asyncio.get_running_loop().run_in_executor(self._executor, function, *args)

    def _decode_and_apply(self, store: Store, number: int, records: Sequence[Record], published: int) -> int:
        """Apply records up to the first bad one that is at or above `published`; return how many."""
        decoded = decode(records, self._rules)
        waits = next((one.record.offset for one in decoded.dead_letters if one.record.offset >= published), None)
        if waits is not None:
            records = [record for record in records if record.offset < waits]
            if not records:
                return 0
            decoded = decode(records, self._rules)
        self._fingerprints.before_batch(number, store.state, records[0].offset)
        apply_steps(store, decoded.steps)
        return len(records)

    async def _committed(self, number: int) -> int:
        """Return the offset below which the owner has applied all, and published what is bad."""
        consumer = await self._connected()
        # Bounded: without a coordinator the client asks for ever, and a takeover would have to wait for it.
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
            of_owner: dict[str, list[_Followed[StoreT]]] = {}
            for one in self._followed.values():
                if one.state.at_work and one.number in self._owners:
                    of_owner.setdefault(self._owners[one.number], []).append(one)
            for owner, followed in of_owner.items():
                try:
                    async with asyncio.timeout(_ASK_S):
                        theirs = await self._ask_owner(owner, [one.number for one in followed])
                except (ConnectionError, TimeoutError) as error:
                    _log.debug("no fingerprints to compare with", owner=owner, why=str(error))
                    continue
                for one in followed:
                    await self._compare_one(one, owner, theirs.get(one.number, ()))

    async def _compare_one(self, one: _Followed[StoreT], owner: str, theirs: Sequence[Fingerprint]) -> None:
        async with one.busy:
            store = one.store
            if store is None or self._followed.get(one.number) is not one or not one.state.at_work:
                return
            mismatch = first_difference(self._fingerprints.of(one.number, store.state), theirs)
            if mismatch is None:
                return
            self.mismatches += 1
            why = (
                f"below offset {mismatch.offset} this node's fingerprint is {mismatch.ours:032x}, and the owner's at "
                f"{owner} is {mismatch.theirs:032x}"
            )
            what = "see by `lifeline verify` on both which is wrong, and replay that"
            if one.trimmed_before:
                what = (
                    f"the log held nothing from before offset {one.trimmed_before} when this node began; set the "
                    "directory of the partition aside and restore a snapshot of the owner's"
                )
            self._give_up(one, StandbyState.DIVERGED, f"{why}: {what}")

    def _give_up(self, one: _Followed[StoreT], state: StandbyState, why: str) -> None:
        one.state, one.reason = state, why
        _log.error("standby", partition=one.number, state=state.value, applied_offset=one.applied_offset, why=why)
