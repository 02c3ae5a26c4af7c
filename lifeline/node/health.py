"""Health: one answer to "is it alive, is it ready, and why not", for gRPC, HTTP, metrics and the node itself.

Every method may be called from any thread, also while the event loop hangs: that is when it is asked.
"""

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from lifeline.stream.partition import PartitionState, PartitionStatus
from lifeline.stream.standby import StandbyStatus


class Check(NamedTuple):
    """One thing that must hold."""

    name: str
    ok: bool
    detail: str = ""
    """Where it stands, or why it does not hold."""


class Health:
    """What a node's parts say, put together."""

    def __init__(
        self,
        partitions: Callable[[], Sequence[PartitionStatus]],
        standbys: Callable[[], Sequence[StandbyStatus]],
        *,
        stall_after_s: float,
    ) -> None:
        self._partitions, self._standbys, self._stall_after_s = partitions, standbys, stall_after_s
        self._ticked_at = time.monotonic()
        self.assigned = False
        """Whether the group has made an assignment."""
        self.items_synced = False
        """Whether the items topic is read to where it was at the start, and on the disk."""
        self.leaving = False
        """Whether a stop was asked for."""

    def tick(self) -> None:
        """Say that the event loop runs; called in it, many times within `stall_after_s`."""
        self._ticked_at = time.monotonic()

    def live(self) -> list[Check]:
        """Return what must hold of a process that a supervisor should leave alone."""
        silent_s = time.monotonic() - self._ticked_at
        loop = Check("event-loop", silent_s < self._stall_after_s, f"silent for {silent_s:.1f} s")
        return [
            loop,
            *(
                Check(f"partition-{one.partition}", one.state is not PartitionState.STALLED, _where(one))
                for one in self._partitions()
            ),
        ]

    def ready(self) -> list[Check]:
        """Return what must hold of a node that calls should come to."""
        return [
            Check("running", not self.leaving, "it stops" if self.leaving else ""),
            Check("assigned", self.assigned, "" if self.assigned else "the group has not assigned anything yet"),
            Check("items", self.items_synced, "" if self.items_synced else "the items topic is being read"),
            *(Check(f"partition-{one.partition}", _answers(one), _where(one)) for one in self._partitions()),
        ]

    def remarks(self) -> list[Check]:
        """Return what an operator should know and callers need not: standbys that do not follow."""
        return [Check(f"standby-{one.partition}", one.state.at_work, _where(one)) for one in self._standbys()]


def holds(checks: Sequence[Check]) -> bool:
    """Say whether all of them do."""
    return all(check.ok for check in checks)


def _answers(one: PartitionStatus) -> bool:
    """Say whether reads come out right. A pause alone must not take a whole fleet out of its load balancer."""
    return one.state is PartitionState.SERVING or (one.state is PartitionState.PAUSED and one.is_served)


def _where(one: PartitionStatus | StandbyStatus) -> str:
    return f"{one.state.value}: {one.reason}" if one.reason else one.state.value
