"""A supervisor: restarts a node whenever it ends, and records its deaths and its memory."""

import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from types import TracebackType
from typing import Final, NamedTuple, Self

import numpy as np

from benchmarks.stream.environment import rss_mib
from lifeline.core.errors import NodeProcessError
from lifeline.dev.node_process import Event, NodeProcess

_POLL_S: Final = 0.25
_SAMPLE_S: Final = 0.5
_RESTART_S: Final = 1.0
_TROUBLE: Final = frozenset({"error", "critical"})


class Death(NamedTuple):
    """One end of the node's process."""

    at: float
    """By `time.monotonic`."""
    why: str
    """The last line of its log."""


class Memory(NamedTuple):
    """One memory sample."""

    at: float
    """By `time.monotonic`."""
    mib: float


class NodeSupervisor:
    """Follows a running node, and restarts it; a context manager."""

    def __init__(self, node: NodeProcess) -> None:
        self._node = node
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="survival")
        self.deaths: list[Death] = []
        self.memory: list[Memory] = []
        self.errors: Counter[str] = Counter()
        """The number of log records of each error, by message."""

    def median_mib(self, start: float, end: float) -> float:
        """Return the median memory from `start` to `end`; the peak if there is no sample."""
        mib = [sample.mib for sample in self.memory if start <= sample.at < end]
        return float(np.median(mib)) if mib else self.peak_mib

    @property
    def peak_mib(self) -> float:
        """The greatest memory of all samples."""
        return max((sample.mib for sample in self.memory), default=0.0)

    def _follow(self) -> None:
        sampled = 0.0
        while not self._over.is_set():
            try:
                event = self._node.next_event(_POLL_S)
                while event is not None and not self._over.is_set():
                    self._note(event)
                    event = self._node.next_event(0)
                if time.monotonic() >= sampled + _SAMPLE_S:
                    sampled = time.monotonic()
                    self._sample()
            except NodeProcessError as error:
                self.deaths.append(Death(time.monotonic(), str(error).splitlines()[-1]))
                self._over.wait(_RESTART_S)
                self._node.start()

    def _note(self, event: Event) -> None:
        if event.get("level") in _TROUBLE:
            trace = str(event.get("exception", "")).strip().rpartition("\n")[2]
            parts = (event.get("event"), event.get("state"), event.get("why"), trace)
            self.errors[": ".join(str(part)[:200] for part in parts if part)] += 1

    def _sample(self) -> None:
        try:
            self.memory.append(Memory(time.monotonic(), rss_mib(self._node.pid)))
        except (OSError, RuntimeError):
            # The process has just ended; the next poll reports it.
            return

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()


def wait_ready(http_address: str, timeout_s: float) -> bool:
    """Return whether a node becomes ready within `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"http://{http_address}/readyz", timeout=5) as answer:
                if answer.status == 200:
                    return True
        except (urllib.error.URLError, OSError):
            pass
        time.sleep(_POLL_S)
    return False
