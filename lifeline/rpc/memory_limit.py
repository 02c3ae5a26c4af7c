"""A limit to the process's memory: above it calls are refused, before the machine kills the node."""

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import structlog

from lifeline.core.reasons import Reason
from lifeline.rpc.status import Refusal
from lifeline.store.item_budget import ITEM_BYTES

_STATUS = Path("/proc/self/status")
_CONTROL_GROUP = Path("/sys/fs/cgroup/memory.max")
_SHARE = 0.9
_ITEM_SHARE = 0.25
_LOOK_S = 0.1
_RETRY_AFTER_S = 1.0
_MIB = 1 << 20

_log = structlog.get_logger(__name__)


def own_memory(status: Path = _STATUS) -> int:
    """Return the bytes that the process alone holds in memory; 0 where the system does not tell.

    Pages of mapped files do not count: the system takes those back when it needs them.
    """
    try:
        lines = status.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon:")), 0)


def available_memory(control_group: Path = _CONTROL_GROUP) -> int:
    """Return the bytes that the machine has, or the control group of this process may have."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        text = control_group.read_text().strip()
    except OSError:
        return machine
    return min(machine, int(text)) if text.isdecimal() else machine


def memory_limit(mib: int | None) -> int:
    """Return the bytes that the process may hold: so many MiB, or nine tenths of what there is."""
    return round(available_memory() * _SHARE) if mib is None else mib * _MIB


def item_limit(mib: int | None) -> int:
    """Return how many item ids the partitions of a process with this limit may hold, where nobody has said so."""
    return max(1, int(memory_limit(mib) * _ITEM_SHARE) // ITEM_BYTES)


class MemoryLimit:
    """Looks ten times a second at most; every method may be called from any thread."""

    def __init__(self, limit: int, used: Callable[[], int] = own_memory) -> None:
        """`limit` is in bytes, as what `used` gives."""
        self._limit, self._used = limit, used
        self._lock = threading.Lock()
        self._looked_at = -_LOOK_S
        self._refusal: Refusal | None = None

    @classmethod
    def of(cls, mib: int | None) -> "MemoryLimit":
        """Return a limit of so many MiB, or of nine tenths of what there is."""
        return cls(memory_limit(mib))

    def refusal(self) -> Refusal | None:
        """Return how a call is to be refused, or None while there is room."""
        # The look takes a while, and whoever comes meanwhile goes by the last one: else all calls would queue here.
        if time.monotonic() - self._looked_at < _LOOK_S or not self._lock.acquire(blocking=False):
            return self._refusal
        try:
            now = time.monotonic()
            if now - self._looked_at >= _LOOK_S:
                self._looked_at = now
                used, before = self._used(), self._refusal
                self._refusal = self._refusal_at(used) if used > self._limit else None
                if (self._refusal is None) != (before is None):
                    what = "calls are refused: memory is short" if before is None else "memory suffices again"
                    _log.warning(what, used_mib=used // _MIB, limit_mib=self._limit // _MIB)
        finally:
            self._lock.release()
        return self._refusal

    def _refusal_at(self, used: int) -> Refusal:
        return Refusal(
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            Reason.MEMORY_SHORT,
            f"the node holds {used // _MIB:,} MiB and {self._limit // _MIB:,} are its limit: retry later, each time "
            "waiting longer; make the caches of its configuration smaller, or raise node.max_memory_mib",
            limit=str(self._limit),
        ).with_retry_delay(_RETRY_AFTER_S)
