"""A limit on the process's memory: above it calls are refused, before the kernel kills the node."""

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
_CHECK_INTERVAL_S = 0.1
_RETRY_AFTER_S = 1.0
_MIB = 1 << 20

_log = structlog.get_logger(__name__)


def own_memory(status: Path = _STATUS) -> int:
    """Return the anonymous resident memory of the process in bytes; 0 where /proc does not report it.

    Pages of mapped files do not count: the kernel reclaims them when memory is short.
    """
    try:
        lines = status.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon:")), 0)


def available_memory(control_group: Path = _CONTROL_GROUP) -> int:
    """Return the memory of the machine in bytes, or the limit of its control group if that is lower."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        text = control_group.read_text().strip()
    except OSError:
        return machine
    return min(machine, int(text)) if text.isdecimal() else machine


def memory_limit(mib: int | None) -> int:
    """Return the limit of the process in bytes: `mib` if set, else nine tenths of the available memory."""
    return round(available_memory() * _SHARE) if mib is None else mib * _MIB


def item_limit(mib: int | None) -> int:
    """Return the default limit on item ids in all partitions, for a process with this memory limit in MiB."""
    return max(1, int(memory_limit(mib) * _ITEM_SHARE) // ITEM_BYTES)


class MemoryLimit:
    """Refuses calls above a memory limit. Reads the memory ten times a second at most. Safe in threads."""

    def __init__(self, limit: int, used: Callable[[], int] = own_memory) -> None:
        """`limit` is in bytes, and so is the result of `used`."""
        self._limit, self._used = limit, used
        self._lock = threading.Lock()
        self._checked_at = -_CHECK_INTERVAL_S
        self._refusal: Refusal | None = None

    @classmethod
    def of(cls, mib: int | None) -> "MemoryLimit":
        """Return a limit of `mib`, or of nine tenths of the available memory."""
        return cls(memory_limit(mib))

    def refusal(self) -> Refusal | None:
        """Return the refusal of a call, None while memory is below the limit."""
        # Reading takes time. Calls that arrive meanwhile use the last result, so that they do not queue here.
        if time.monotonic() - self._checked_at < _CHECK_INTERVAL_S or not self._lock.acquire(blocking=False):
            return self._refusal
        try:
            now = time.monotonic()
            if now - self._checked_at >= _CHECK_INTERVAL_S:
                self._checked_at = now
                used, previous = self._used(), self._refusal
                self._refusal = self._refusal_at(used) if used > self._limit else None
                if (self._refusal is None) != (previous is None):
                    what = (
                        "calls are refused: memory is short"
                        if previous is None
                        else "calls are accepted again: memory suffices"
                    )
                    _log.warning(what, used_mib=used // _MIB, limit_mib=self._limit // _MIB)
        finally:
            self._lock.release()
        return self._refusal

    def _refusal_at(self, used: int) -> Refusal:
        return Refusal(
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            Reason.MEMORY_SHORT,
            f"the node uses {used // _MIB:,} MiB, and its limit is {self._limit // _MIB:,}: retry with exponential "
            "back-off; configure smaller caches, or raise node.max_memory_mib",
            limit=str(self._limit),
        ).with_retry_delay(_RETRY_AFTER_S)
