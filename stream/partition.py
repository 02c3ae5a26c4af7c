"""A partition in the hands of this node: its state, what it has done, and what waits to be applied."""

import asyncio
import time
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from lifeline.core.actions import ActionBatch
from lifeline.stream.bad_record_breaker import BadShare
from lifeline.stream.decode import DeadLetter, DeadLetterReason
from lifeline.stream.fingerprint_log import StateAt
from lifeline.stream.record import Record, size_of


class PartitionState(StrEnum):
    """Where a partition stands; the same words in metrics, logs, health and console."""

    ASSIGNED = "assigned"
    """The group gave it to this node; nothing is open yet."""
    RESTORING = "restoring"
    """Its store is being opened or restored."""
    CATCHING_UP = "catching_up"
    """It is consumed, and has not yet reached the end of the log."""
    SERVING = "serving"
    """It has reached the end of the log since it was assigned."""
    PAUSED = "paused"
    """It takes no record for now, and tries again by itself; readers are answered as of its applied offset."""
    REFUSING = "refusing"
    """Its store and the log no longer meet; an operator has to act."""
    STALLED = "stalled"
    """Records are here, or their broker is connected, and none was applied for ``updater.stall_after_ms``.

    A cluster that is away is no stall: nothing can be applied then, and a restart of the node would not help.
    """
    REVOKED = "revoked"
    """The group has taken it away, or is about to say who gets it."""


class Store(Protocol):
    """What the updater needs of a partition's store: `store.partition.PartitionStore` has it."""

    @property
    def state(self) -> StateAt:
        """Applied offset and fingerprint, of one moment."""

    @property
    def applied_offset(self) -> int:
        """The last offset that is part of the state; -1 before the first."""

    @property
    def durable_offset(self) -> int:
        """The last offset that survives what the store promises; at or below the applied one."""

    def apply(self, batch: ActionBatch, *, offset: int) -> Any:  # noqa: ANN401 - the caller's own result
        """Add the batch's events and move the applied offset, as one write."""

    def erase(self, user_id: bytes, *, offset: int) -> int:
        """Remove a user's events and move the applied offset, as one write; return how many there were."""


StoreT = TypeVar("StoreT", bound=Store)


@dataclass(frozen=True, slots=True)
class StoreAccess(Generic[StoreT]):
    """How a partition's store is opened and closed; both are called in threads."""

    open: Callable[[int], StoreT]
    """Opens a partition's store, or restores it first: it may take as long as that takes."""
    close: Callable[[StoreT], None]


@dataclass(frozen=True, slots=True)
class PartitionStatus:
    """One partition at one moment. Counts are since the partition was assigned."""

    partition: int
    state: PartitionState
    applied_offset: int
    """The last offset applied; -1 before the first."""
    lag: int
    """Records of the log that are not applied yet, as far as is known."""
    records: int
    events: int
    """Actions that passed the checks (the store may know some already)."""
    erasures: int
    batches: int
    dead_letters: Mapping[DeadLetterReason, int]
    reason: str
    """Why it is paused, refusing or stalled, or what it waits for; empty otherwise."""
    waiting_since_ms: int = 0
    """A time, milliseconds since 1970, at or before that of the oldest record that waits to be applied: that record's
    own once it has been fetched. 0 while none waits, or when nothing is known of it."""
    durable_offset: int = -1
    """The last offset that survives what the store promises."""
    resumed_offset: int = 0
    """The first offset that was still to be applied when the partition was assigned."""
    end_offset: int = 0
    """The offset behind the last record that is known to be in the log."""
    is_served: bool = False
    """Whether readers are answered: it has met the end of its log once."""
    catching_up_s: float = 0.0
    """Seconds since it was assigned and open, until it met the end of the log."""


class Taken(NamedTuple):
    """A batch on its way into the store."""

    at: float
    """When it was taken, on the monotonic clock."""
    bytes: int
    first_ms: int
    """The timestamp of its first record."""


_NOTHING = Taken(0.0, 0, 0)


@dataclass(slots=True)
class HeldPartition(Generic[StoreT]):
    """A partition's records on their way, and its counters. It lives in the event loop alone."""

    number: int
    state: PartitionState = PartitionState.ASSIGNED
    reason: str = ""
    store: StoreT | None = None
    epoch: int = 0
    """Grows whenever what was fetched before has become void."""
    consuming: bool = False
    pauses: int = 0
    """How often it has been paused since it last applied a batch."""
    pause_ends_in: PartitionState = PartitionState.CATCHING_UP
    """The state that a pause interrupted."""
    judged_offset: int = -1
    """The last offset that `bad_share` has counted: what comes again after a pause does not count twice."""
    published_offset: int = -1
    """The last offset whose dead letter is safe: what comes again after a pause is not published again."""
    refused: bool = False
    """Whether it refuses, or did when it was revoked."""
    served: bool = False
    """Whether readers find its store."""
    next_offset: int = 0
    """The offset that the next record handed over must have."""
    seen_gap: int = -1
    """The first offset behind a gap that was met once."""
    end_offset: int = 0
    passed_offset: int = 0
    """Below it the log holds nothing more to apply: what is not applied are control records."""
    seen_end: tuple[int, float] = (-1, 0.0)
    """The end of the log at which nothing came though all was fetched, and when that was met first."""
    pending: deque[tuple[Sequence[Record], int]] = field(default_factory=deque)
    """Runs of records, each with its bytes."""
    pending_records: int = 0
    pending_bytes: int = 0
    pending_since: float = 0.0
    taken: Taken = _NOTHING
    """What is being applied, or was last."""
    newest_ms: int = 0
    """The timestamp of the last record applied; 0 before the first."""
    resumed_offset: int = 0
    """The first offset that was still to be applied when it was assigned."""
    resumed_at: float = 0.0
    """When that was, on the monotonic clock; 0 before."""
    met_end_at: float = 0.0
    """When the end of the log was met first since then; 0 before."""
    caught_up_ms: int = 0
    """When nothing was known to wait last, milliseconds since 1970."""
    progress_at: float = field(default_factory=time.monotonic)
    lifecycle: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while the store is being opened or closed."""
    applying: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while a batch is being applied."""
    bad_share: BadShare = field(default_factory=lambda: BadShare(1, 1.0))
    """Set anew by each assignment."""
    records: int = 0
    events: int = 0
    erasures: int = 0
    batches: int = 0
    dead_letters: Counter[DeadLetterReason] = field(default_factory=Counter)

    @property
    def applied_offset(self) -> int:
        """The store's; -1 while there is none."""
        return -1 if self.store is None else self.store.applied_offset

    @property
    def durable_offset(self) -> int:
        """The last offset that survives what the store promises; -1 before the first."""
        return -1 if self.store is None else self.store.durable_offset

    @property
    def lag(self) -> int:
        """Records that are known to be in the log and are not applied."""
        return max(0, self.end_offset - max(self.applied_offset + 1, self.passed_offset))

    @property
    def waiting_since_ms(self) -> int:
        """See `PartitionStatus`. The log was empty behind us at `caught_up_ms`, so what waits came after."""
        if self.lag == 0:
            return 0
        if self.applying.locked():
            return self.taken.first_ms
        with suppress(IndexError):
            # Whoever asks from another thread may find nothing waiting any more.
            return self.pending[0][0][0].timestamp
        return max(self.newest_ms, self.caught_up_ms)

    def void(self) -> tuple[int, int]:
        """Forget what was fetched and stop consuming; return how many records and bytes were waiting."""
        dropped = self.pending_records, self.pending_bytes
        self.pending_records = self.pending_bytes = 0
        self.pending.clear()
        self.epoch += 1
        self.consuming = False
        self.seen_gap = -1
        return dropped

    def push(self, records: Sequence[Record]) -> int:
        """Add records that follow what is here; return their bytes."""
        size = sum(map(size_of, records))
        if not self.pending:
            self.pending_since = time.monotonic()
        self.pending.append((records, size))
        self.pending_records += len(records)
        self.pending_bytes += size
        self.next_offset = records[-1].offset + 1
        self.seen_gap = -1
        return size

    def take(self, limit: int, max_bytes: int, end_of: Callable[[int], int]) -> tuple[list[Record], int]:
        """Remove and return the first records, and their bytes: at most `limit` and `max_bytes`, but at least one.

        `end_of` gives the offset before which a batch with this first offset has to end.
        """
        taken: list[Record] = []
        size = 0
        while self.pending and len(taken) < limit:
            records, run_size = self.pending.popleft()
            if len(records) <= limit - len(taken) and size + run_size <= max_bytes:
                taken += records
                size += run_size
                continue
            before = size
            for at, record in enumerate(records):
                one = size_of(record)
                if taken and (len(taken) >= limit or size + one > max_bytes):
                    self.pending.appendleft((records[at:], run_size - (size - before)))
                    break
                taken.append(record)
                size += one
            else:
                continue
            break
        if taken and taken[-1].offset >= (end := end_of(taken[0].offset)):
            tail = after(taken, end)
            tail_size = sum(map(size_of, tail))
            self.pending.appendleft((tail, tail_size))
            del taken[-len(tail) :]
            size -= tail_size
        self.pending_records -= len(taken)
        self.pending_bytes -= size
        if taken:
            self.taken = Taken(time.monotonic(), size, taken[0].timestamp)
        # What stays has waited already: it goes with the next batch, at once.
        return taken, size

    def judge(self, records: Sequence[Record], dead_letters: Sequence[DeadLetter]) -> bool:
        """Count a batch's bad records; say whether there have been too many."""
        fresh = len(after(records, self.judged_offset + 1))
        if fresh:
            self.bad_share.add(fresh, sum(letter.record.offset > self.judged_offset for letter in dead_letters))
            self.judged_offset = records[-1].offset
        return self.bad_share.is_exceeded

    def status(self) -> PartitionStatus:
        """Return a snapshot."""
        return PartitionStatus(
            partition=self.number,
            state=self.state,
            applied_offset=self.applied_offset,
            lag=self.lag,
            records=self.records,
            events=self.events,
            erasures=self.erasures,
            batches=self.batches,
            dead_letters=dict(self.dead_letters),
            reason=self.reason,
            waiting_since_ms=max(0, self.waiting_since_ms),
            durable_offset=self.durable_offset,
            resumed_offset=self.resumed_offset,
            end_offset=self.end_offset,
            is_served=self.served,
            catching_up_s=(self.met_end_at or time.monotonic()) - self.resumed_at if self.resumed_at else 0.0,
        )


def after(records: Sequence[Record], offset: int) -> Sequence[Record]:
    """Return the records at or above `offset` of a run that ascends by offset."""
    if not records or records[0].offset >= offset:
        return records
    return records[bisect_left(records, offset, key=lambda record: record.offset) :]
