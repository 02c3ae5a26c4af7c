"""Calls that wait for an offset: each gives its concurrency slot back, and takes one of a few places for waits.

So waiting calls never block other calls, and one caller never takes every place. A waiting call holds a thread; the
server has one additional thread for each place.
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import grpc

from lifeline.core.reasons import Reason
from lifeline.rpc.status import Refusal

RETRY_AFTER_S = 0.5
CALLER: ContextVar[str] = ContextVar("caller", default="")
"""The caller of the current call; empty where callers have no names."""
SLOT: ContextVar["Slot | None"] = ContextVar("slot", default=None)
"""The slot of the current call; None where calls are not limited."""


class Slot:
    """The concurrency slot of one call. Only the call's thread uses it."""

    def __init__(self, free: threading.Semaphore, full: Callable[[], Refusal]) -> None:
        """`free` counts the slots left; `full` returns the refusal when there is none."""
        self._free, self._full, self._taken = free, full, False

    def take(self, timeout_s: float = 0.0) -> None:
        """Acquire the slot within `timeout_s` seconds; raises Refusal."""
        if not self._free.acquire(timeout=timeout_s):
            raise self._full()
        self._taken = True

    def give_back(self) -> None:
        """Release the slot. Idempotent."""
        if self._taken:
            self._taken = False
            self._free.release()


class WaitStatistics(NamedTuple):
    """What happened to waits."""

    waiting: int
    """Calls that wait now."""
    refused: int
    """Calls that found no place."""


class Waits:
    """The places of calls that wait. Every method may be called from any thread."""

    def __init__(self, capacity: int = 32, max_wait_s: float = 30.0) -> None:
        """Allow `capacity` calls to wait at once, half of them of one caller, each for `max_wait_s` seconds."""
        self.capacity, self.max_wait_s = capacity, max_wait_s
        self.capacity_per_caller = capacity - capacity // 2
        self._of_caller: Counter[str] = Counter()
        self._waiting = self._refused = 0
        self._lock = threading.Lock()

    def statistics(self) -> WaitStatistics:
        """Return the numbers of this moment."""
        with self._lock:
            return WaitStatistics(self._waiting, self._refused)

    @contextmanager
    def place(self, context: grpc.ServicerContext) -> Iterator[None]:
        """Hold a place while the call waits, and give its slot back; raises Refusal where there is none.

        The slot stays with others afterwards: `resume` takes one again.
        """
        caller = CALLER.get() or _host_of(context)
        with self._lock:
            limit = self.capacity_per_caller if self._of_caller[caller] >= self.capacity_per_caller else self.capacity
            full = self._of_caller[caller] >= self.capacity_per_caller or self._waiting >= self.capacity
            self._refused += full
            if not full:
                self._waiting += 1
                self._of_caller[caller] += 1
        if full:
            raise Refusal(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                Reason.WAITS_FULL,
                f"{limit} calls {f'of {caller} ' if limit < self.capacity else ''}wait for an offset: retry with "
                "exponential back-off, leave min_offset out, or raise node.max_waits",
                limit=str(limit),
            ).with_retry_delay(RETRY_AFTER_S)
        slot = SLOT.get()
        if slot is not None:
            slot.give_back()
        try:
            yield
        finally:
            with self._lock:
                self._waiting -= 1
                self._of_caller[caller] -= 1
                if not self._of_caller[caller]:
                    del self._of_caller[caller]


def resume(timeout_s: float) -> None:
    """Take a slot for the call that has waited, within `timeout_s` seconds; raises Refusal."""
    slot = SLOT.get()
    if slot is not None:
        slot.take(timeout_s)


def _host_of(context: grpc.ServicerContext) -> str:
    """Return the peer without its port, which differs for every connection."""
    return str(context.peer()).rpartition(":")[0]
