"""Health of nodes in given states."""

from collections.abc import Sequence

from lifeline.node.health import Health
from lifeline.stream.partition import PartitionState, PartitionStatus
from lifeline.stream.standby_status import StandbyStatus

SERVING = PartitionStatus(
    partition=3,
    state=PartitionState.SERVING,
    applied_offset=9,
    lag=0,
    records=1,
    events=1,
    erasures=0,
    batches=1,
    dead_letters={},
    reason="",
)


def health(*partitions: PartitionStatus, standbys: Sequence[StandbyStatus] = (), stall_after_s: float = 30.0) -> Health:
    health = Health(lambda: partitions, lambda: standbys, stall_after_s=stall_after_s)
    health.is_assigned = health.has_synced_items = True
    return health
