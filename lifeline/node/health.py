"""Health: whether a node is live and ready, and why not, for gRPC, HTTP, metrics and the node itself.

Every method may be called from any thread, also while the event loop hangs.
"""

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from lifeline.stream.partition import PartitionState, PartitionStatus
from lifeline.stream.standby_status import StandbyStatus


class Check(NamedTuple):
    """The result of one check."""

    name: str
    ok: bool
    detail: str = ""
    """Its state, or why it fails."""


class Health:
    """Combines the states of a node's parts into checks."""

    def __init__(
        self,
        partitions: Callable[[], Sequence[PartitionStatus]],
        standbys: Callable[[], Sequence[StandbyStatus]],
        *,
        stall_after_s: float,
    ) -> None:
        self._partitions, self._standbys, self._stall_after_s = partitions, standbys, stall_after_s
        self._ticked_at = time.monotonic()
        self.is_assigned = False
        """Whether the group has made an assignment."""
        self.has_synced_items = False
        """Whether the records that the items topic had at the start are read, and synced to disk."""
        self.is_stopping = False
        """Whether a stop was requested."""

    def tick(self) -> None:
        """Record that the event loop runs; called in it, many times within `stall_after_s`."""
        self._ticked_at = time.monotonic()

    def live(self) -> list[Check]:
        """Return the checks of liveness: if one fails, a supervisor should restart the process."""
        silent_s = time.monotonic() - self._ticked_at
        loop = Check("event-loop", silent_s < self._stall_after_s, f"silent for {silent_s:.1f} s")
        return [
            loop,
            *(
                Check(f"partition-{status.partition}", status.state is not PartitionState.STALLED, _detail(status))
                for status in self._partitions()
            ),
        ]

    def ready(self) -> list[Check]:
        """Return the checks of readiness: if one fails, balancers should send no calls."""
        return [
            Check("running", not self.is_stopping, "the node stops" if self.is_stopping else ""),
            Check("assigned", self.is_assigned, "" if self.is_assigned else "the group has not assigned anything yet"),
            Check("items", self.has_synced_items, "" if self.has_synced_items else "the items topic is being read"),
            *(
                Check(f"partition-{status.partition}", _answers_reads(status), _detail(status))
                for status in self._partitions()
            ),
        ]

    def remarks(self) -> list[Check]:
        """Return the checks that affect neither liveness nor readiness: whether standbys follow the log."""
        return [
            Check(f"standby-{status.partition}", status.state.applies, _detail(status)) for status in self._standbys()
        ]


def all_ok(checks: Sequence[Check]) -> bool:
    """Return whether every check passes."""
    return all(check.ok for check in checks)


def _answers_reads(status: PartitionStatus) -> bool:
    """Return whether reads are answered. A pause must not take all nodes out of the load balancer at once."""
    return status.state is PartitionState.SERVING or (status.state is PartitionState.PAUSED and status.is_served)


def _detail(status: PartitionStatus | StandbyStatus) -> str:
    return f"{status.state.value}: {status.reason}" if status.reason else status.state.value
