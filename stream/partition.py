"""A partition that this node owns: its state machine, its queue of records, and its counters.

Each transition is a method; the state changes nowhere else::

    from                                    method      to
    any state                               assign      ASSIGNED
    ASSIGNED                                restore     RESTORING
    ASSIGNED, RESTORING                     catch_up    CATCHING_UP
    CATCHING_UP, SERVING, STALLED, PAUSED   serve       SERVING       the end of the log is reached
    CATCHING_UP, SERVING                    stall       STALLED       records wait, and none is applied
    STALLED                                 unstall     CATCHING_UP
    SERVING                                 hold        PAUSED        a transaction is open; consumes
    CATCHING_UP, SERVING, STALLED, PAUSED   pause       PAUSED        consumes nothing
    any state but REVOKED, REFUSING         suspend     PAUSED        consumes nothing any more
    PAUSED                                  retry       PAUSED        consumes again
    PAUSED                                  recover     the state that the pause interrupted
    any state but REVOKED                   refuse      REFUSING
    any state                               revoke      REVOKED

`assign`, `pause`, `suspend`, `refuse` and `revoke` end the *epoch*: they drop all waiting records, and a task that
began in an earlier epoch must not change the partition any more. Only `catch_up` and `retry` let it consume again.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic

import structlog

from lifeline.stream.applied_counts import AppliedCounts
from lifeline.stream.bad_record_breaker import BadRecordBreaker
from lifeline.stream.decode import DeadLetter, DeadLetterReason, DecodedBatch
from lifeline.stream.log import LogReader
from lifeline.stream.open_transaction import NOT_HELD, held_now
from lifeline.stream.pending import Batch, IntakeLimit, PendingRecords
from lifeline.stream.record import Record, records_from
from lifeline.stream.stores import Directory, StoreT

_log = structlog.get_logger(__name__)


class PartitionState(StrEnum):
    """The state of a partition; metrics, logs, health and console use the same words."""

    ASSIGNED = "assigned"
    """The group has assigned it to this node; nothing is open yet."""
    RESTORING = "restoring"
    """Its store is being opened or restored."""
    CATCHING_UP = "catching_up"
    """It consumes, and has not reached the end of the log yet."""
    SERVING = "serving"
    """It has reached the end of the log since it was assigned."""
    PAUSED = "paused"
    """It applies nothing for now, and goes on by itself, except where partitions were added to the topic.

    Reads are answered as of its applied offset.
    """
    REFUSING = "refusing"
    """Its store does not fit the log, or most of its records are bad; an operator has to act."""
    STALLED = "stalled"
    """Records wait, or their broker is connected, and none was applied for ``updater.stall_after_ms``.

    An unreachable cluster is no stall: nothing can be applied then, and a restart of the node would not help.
    """
    REVOKED = "revoked"
    """The group has revoked it, for good or for the duration of a rebalance."""


@dataclass(frozen=True, slots=True)
class PartitionStatus:
    """One partition at one moment. Counts are since the partition was assigned."""

    partition: int
    state: PartitionState
    applied_offset: int
    """The last offset applied; -1 before the first."""
    lag: int
    """Known records of the log that are not applied yet, also those that wait for the end of a transaction."""
    records: int
    events: int
    """Actions that passed the checks, including those that the store already had."""
    erasures: int
    batches: int
    dead_letters: Mapping[DeadLetterReason, int]
    reason: str
    """Why it is paused, refusing or stalled, or what it waits for; otherwise empty."""
    waiting_since_ms: int = 0
    """The time of the oldest record to apply, or an earlier time while that record is not fetched yet; milliseconds
    since 1970. 0 when there is none, or its time is unknown."""
    durable_offset: int = -1
    """The last offset that survives the failures that ``store.durability`` covers."""
    resumed_offset: int = 0
    """The first offset to apply when the partition was assigned."""
    end_offset: int = 0
    """The offset after the last known record of the log."""
    is_served: bool = False
    """Whether reads are answered."""
    catching_up_s: float = 0.0
    """Seconds from when its store was open until it reached the end of the log."""
    held_since_ms: int = 0
    """Since when an open transaction has held back the next record, while all records before it are applied;
    milliseconds since 1970. 0 when there is none."""


ALARMS = frozenset({PartitionState.PAUSED, PartitionState.REFUSING, PartitionState.STALLED})
"""States that are logged as errors, for operators."""

_CONSUMING = frozenset(
    {PartitionState.CATCHING_UP, PartitionState.SERVING, PartitionState.STALLED, PartitionState.PAUSED}
)
_ANY = frozenset(PartitionState)


class TransitionError(RuntimeError):
    """The state does not allow the requested transition: a fault in this program."""


class HeldPartition(Generic[StoreT]):
    """One partition of this node. It belongs to the event loop; any thread may read `status` and the properties."""

    def __init__(
        self,
        number: int,
        limit: IntakeLimit,
        directory: Directory[StoreT],
        on_state: Callable[[int, PartitionState], None] = lambda _number, _state: None,
    ) -> None:
        self.number = number
        self._directory, self._on_state = directory, on_state
        self.state = PartitionState.ASSIGNED
        self.reason = ""
        self.epoch = 0
        self.is_consuming = False
        self.is_served = False
        """Whether readers find the store in the directory."""
        self.is_unusable = False
        """Whether it refuses, or did when it was revoked: this node must not claim the partition by its store."""
        self.store: StoreT | None = None
        self.reader: LogReader | None = None
        """The log reader of the last assignment."""
        self.lifecycle = asyncio.Lock()
        """Held while the store is being opened or closed."""
        self.applying = asyncio.Lock()
        """Held while a batch is being applied."""
        self.pending = PendingRecords(limit)
        self.batch = Batch()
        """The batch that is being applied."""
        self.counts = AppliedCounts()
        self.breaker = BadRecordBreaker(1, 1.0)
        self.published_offset = -1
        """The last offset whose dead letter is acknowledged: after a pause it is not published again."""
        self.next_offset = 0
        """The offset that the next record must have."""
        self.gap_offset = -1
        """The first offset after a gap that was fetched once; -1 for none."""
        self.end_offset = 0
        """The offset after the last known record of the log."""
        self.stable_offset = 0
        """The last stable offset: no record from it on is delivered while the transaction that began there is open."""
        self.control_offset = 0
        """Before this offset everything is applied except control records."""
        self.idle_end: tuple[int, float] = (-1, 0.0)
        """The end of the log that was reached without its last records arriving, and when this was noticed."""
        self.held = NOT_HELD
        self.is_blocked = False
        """Whether it is PAUSED until somebody acts: by `hold`, or by `suspend`."""
        self.progress_at = time.monotonic()
        self._counted_offset = -1
        self._pauses = 0
        self._interrupted = PartitionState.CATCHING_UP
        self._resumed_offset = 0
        self._resumed_at = self._reached_end_at = 0.0
        self._caught_up_ms = self._newest_ms = 0

    # -- transitions -------------------------------------------------------------------------------------------

    def assign(self, reader: LogReader, breaker: BadRecordBreaker) -> None:
        """From any state to ASSIGNED: the group has assigned it. Its store may still be open."""
        self._end_epoch()
        self.reader, self.breaker = reader, breaker
        self._counted_offset = self.published_offset = -1
        self.is_unusable = False
        self._enter(PartitionState.ASSIGNED, _ANY)

    def restore(self) -> None:
        """From ASSIGNED to RESTORING: its store is being opened."""
        self._enter(PartitionState.RESTORING, {PartitionState.ASSIGNED})

    def catch_up(self, position: int) -> None:
        """From ASSIGNED or RESTORING to CATCHING_UP: its store is open; consume from `position` on."""
        self._enter(PartitionState.CATCHING_UP, {PartitionState.ASSIGNED, PartitionState.RESTORING})
        self._consume_from(position)
        self._resumed_offset = position
        self.progress_at = self._resumed_at = time.monotonic()
        self._reached_end_at = 0.0

    def serve(self) -> None:
        """From any state that consumes to SERVING: all records of the log are applied."""
        self.progress_at = time.monotonic()
        self._caught_up_ms = time.time_ns() // 1_000_000
        self._reached_end_at = self._reached_end_at or self.progress_at
        self.open_to_readers()
        self._enter(PartitionState.SERVING, _CONSUMING)

    def stall(self, why: str) -> None:
        """From CATCHING_UP or SERVING to STALLED: records wait, and none was applied for too long."""
        self._enter(PartitionState.STALLED, {PartitionState.CATCHING_UP, PartitionState.SERVING}, why)

    def unstall(self) -> None:
        """From STALLED to CATCHING_UP: records are applied again, or the cluster is unreachable."""
        self._enter(PartitionState.CATCHING_UP, {PartitionState.STALLED})

    def hold(self, why: str) -> None:
        """From SERVING to PAUSED: an open transaction holds back the next record. It consumes until `recover`."""
        self._interrupted = self.state
        self._enter(PartitionState.PAUSED, {PartitionState.SERVING}, why)
        self.is_blocked = True

    def suspend(self, why: str) -> None:
        """From any state but REVOKED and REFUSING to PAUSED: nothing more may be applied to its store."""
        self._enter(PartitionState.PAUSED, _CONSUMING | {PartitionState.ASSIGNED, PartitionState.RESTORING}, why)
        self.is_blocked = True
        self._end_epoch()
        if self.applied_offset >= 0 or self.lag == 0:
            self.open_to_readers()
        else:
            # An empty store would answer that there are no such users.
            self.close_to_readers(why)

    def pause(self, why: str) -> int:
        """From any state that consumes to PAUSED: consume nothing for now; reads are answered.

        Returns the number of earlier pauses since the last applied batch.
        """
        if self.state is not PartitionState.PAUSED:
            self._interrupted = self.state
        self._enter(PartitionState.PAUSED, _CONSUMING, why)
        # The end of the log is not updated during the pause, and replies state the lag.
        self.end_offset = max(self.end_offset, self.next_offset)
        self._end_epoch()
        self._pauses += 1
        return self._pauses - 1

    def retry(self) -> None:
        """Stay in PAUSED, and consume again after the applied offset; `recover` follows the first applied batch."""
        self._enter(PartitionState.PAUSED, {PartitionState.PAUSED}, self.reason)
        self._consume_from(self.retry_position)

    def recover(self) -> None:
        """From PAUSED to the state that the pause interrupted: a batch was applied, or can be."""
        self._enter(self._interrupted, {PartitionState.PAUSED})

    def refuse(self, why: str) -> None:
        """From any state but REVOKED to REFUSING: consume nothing and refuse reads, until an operator has acted."""
        self._end_epoch()
        self.close_to_readers(why)
        self.is_unusable = True
        self._enter(PartitionState.REFUSING, _ANY - {PartitionState.REVOKED}, why)

    def revoke(self) -> None:
        """From any state to REVOKED: the group took it away. The store stays open: most partitions come back."""
        self._end_epoch()
        self._enter(PartitionState.REVOKED, _ANY)

    def _enter(self, state: PartitionState, sources: AbstractSet[PartitionState], reason: str = "") -> None:
        if self.state not in sources:
            raise TransitionError(f"partition {self.number} cannot go from {self.state.value} to {state.value}")
        if (self.state, self.reason) == (state, reason) and state is not PartitionState.ASSIGNED:
            return
        self.state, self.reason, self.is_blocked = state, reason, False
        self._report()

    def explain(self, reason: str) -> None:
        """Set and report what the partition waits for; empty when it no longer waits."""
        if self.reason != reason:
            self.reason = reason
            self._report()

    def _report(self) -> None:
        log = _log.error if self.state in ALARMS else _log.info
        why = {"why": self.reason} if self.reason else {}
        log("partition", partition=self.number, state=self.state.value, applied_offset=self.applied_offset, **why)
        self._on_state(self.number, self.state)

    def _end_epoch(self) -> None:
        self.pending.clear()
        self.epoch += 1
        self.is_consuming = False
        self.gap_offset = -1

    def _consume_from(self, position: int) -> None:
        self.next_offset, self.is_consuming = position, True

    # -- readers -----------------------------------------------------------------------------------------------

    def open_to_readers(self) -> None:
        """Let readers find the store. Idempotent."""
        if self.store is not None and not self.is_served:
            self.is_served = True
            self._directory.add(self.store, lambda: self.lag, lambda: self.blocked)

    def announce(self) -> None:
        """Tell readers that this node owns the partition and will serve it, unless it is served already."""
        if not self.is_served:
            self._directory.announce(self.number)

    def close_to_readers(self, why: str = "") -> None:
        """Hide the store from readers; with `why`, their calls are refused for that reason."""
        self.is_served = False
        self._directory.remove(self.number, why)

    # -- records -----------------------------------------------------------------------------------------------

    def push(self, records: Sequence[Record]) -> None:
        """Append the next records to the queue."""
        self.pending.push(records)
        self.next_offset = records[-1].offset + 1
        self.gap_offset = -1

    def count_bad_records(self, records: Sequence[Record], dead_letters: Sequence[DeadLetter]) -> bool:
        """Count a batch's bad records, each record only once, and return whether there are too many."""
        new = len(records_from(records, self._counted_offset + 1))
        if new:
            self.breaker.add(new, sum(letter.record.offset > self._counted_offset for letter in dead_letters))
            self._counted_offset = records[-1].offset
        return self.breaker.is_tripped

    def count(self, batch: Batch, decoded: DecodedBatch) -> int:
        """Count an applied batch, end a pause, and return the number of erasures."""
        erasures = self.counts.add(len(batch.records), decoded)
        self._newest_ms = batch.records[-1].timestamp
        self.progress_at = time.monotonic()
        self._pauses = 0
        if self.state is PartitionState.PAUSED and self.is_consuming:
            self.recover()
        return erasures

    def observe(self, *, has_room: bool, stall_after_s: float) -> None:
        """Compare the partition with the log: serve at its end, or stall when nothing was applied for too long.

        Its end is the last stable offset here: nothing behind an open transaction can be applied.
        """
        if self.reader is None or not self.is_consuming:
            return
        stable, end = self.reader.known_end(self.number) or (self.stable_offset, self.end_offset)
        self.stable_offset = max(self.stable_offset, stable, self.applied_offset + 1)
        self.end_offset = max(end, self.stable_offset)
        if self.readable_lag == 0:
            self._reach_end(stall_after_s)
            return
        self.held = NOT_HELD
        if self.is_blocked:
            self.recover()
        if self.state is PartitionState.PAUSED:
            return
        has_work = self.pending.records or self.applying.locked() or not has_room
        if not has_work and not self.reader.connected(self.number):
            # The cluster is unreachable, so nothing can be applied: this time does not count.
            self.progress_at = time.monotonic()
        idle_s = time.monotonic() - self.progress_at
        if idle_s <= stall_after_s:
            if self.state is PartitionState.STALLED:
                self.unstall()
        elif self.state is not PartitionState.STALLED:
            why = f"{self.readable_lag} records wait, and none was applied for {idle_s:.0f} s: check disk and cluster"
            self.stall(why)

    def _reach_end(self, hold_after_s: float) -> None:
        """Serve; or hold, if the same transaction has been open for longer than `hold_after_s`."""
        self.progress_at = time.monotonic()
        self.held = held_now(self.held, self.stable_offset, self.end_offset)
        if self.held.open_s <= hold_after_s:
            self.serve()
        elif not self.is_blocked:
            self.serve()
            self.hold(self.held.reason(self.number))

    # -- status ------------------------------------------------------------------------------------------------

    @property
    def applied_offset(self) -> int:
        """The store's applied offset; -1 while no store is open."""
        return -1 if self.store is None else self.store.applied_offset

    @property
    def durable_offset(self) -> int:
        """The store's durable offset; -1 while no store is open."""
        return -1 if self.store is None else self.store.durable_offset

    @property
    def lag(self) -> int:
        """Known records of the log that are not applied."""
        return max(0, self.end_offset - max(self.applied_offset + 1, self.control_offset))

    @property
    def readable_lag(self) -> int:
        """Those of them that no open transaction holds back."""
        return max(0, self.stable_offset - max(self.applied_offset + 1, self.control_offset))

    @property
    def blocked(self) -> str:
        """Why no later record will be applied before somebody acts; empty while records are applied."""
        return self.reason if self.is_blocked else ""

    @property
    def retry_position(self) -> int:
        """The offset from which a paused partition consumes again."""
        return max(self.applied_offset + 1, self._resumed_offset)

    @property
    def waiting_since_ms(self) -> int:
        """See `PartitionStatus`. No record waited at `_caught_up_ms`, so the waiting ones are newer."""
        if self.lag == 0:
            return 0
        if self.readable_lag == 0:
            return self.held.since_ms
        if self.applying.locked():
            return self.batch.first_ms
        first_ms = self.pending.first_ms
        return max(self._newest_ms, self._caught_up_ms) if first_ms is None else first_ms

    def status(self) -> PartitionStatus:
        """Return the present status."""
        reached_end_at = self._reached_end_at or time.monotonic()
        return PartitionStatus(
            partition=self.number,
            state=self.state,
            applied_offset=self.applied_offset,
            lag=self.lag,
            records=self.counts.records,
            events=self.counts.events,
            erasures=self.counts.erasures,
            batches=self.counts.batches,
            dead_letters=dict(self.counts.dead_letters),
            reason=self.reason,
            waiting_since_ms=max(0, self.waiting_since_ms),
            durable_offset=self.durable_offset,
            resumed_offset=self._resumed_offset,
            end_offset=self.end_offset,
            is_served=self.is_served,
            catching_up_s=reached_end_at - self._resumed_at if self._resumed_at else 0.0,
            held_since_ms=self.held.since_ms,
        )
