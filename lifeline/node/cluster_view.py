"""A node's view of itself and of its group, for ListPartitions and ListFingerprints."""

from collections.abc import Sequence

from lifeline.rpc.owners import Owners
from lifeline.store.fingerprint import as_text
from lifeline.store.partition import PartitionStore
from lifeline.stream.fingerprint_log import Fingerprint, FingerprintLog
from lifeline.stream.partition import PartitionStatus
from lifeline.stream.standby import StandbyFollower
from lifeline.stream.standby_status import StandbyStatus
from lifeline.stream.updater import Updater
from lifeline.v1 import group_pb2, operator_pb2


class ClusterView:
    """Reads updater, standby follower and owners. Every method may be called from any thread."""

    def __init__(
        self,
        updater: Updater[PartitionStore],
        standby: StandbyFollower[PartitionStore],
        fingerprints: FingerprintLog,
        owners: Owners,
    ) -> None:
        self._updater, self._standby = updater, standby
        self._fingerprints, self._owners = fingerprints, owners

    @property
    def address(self) -> str:
        """The host:port at which other nodes reach this one."""
        return self._owners.own_address

    def held_partitions(self) -> Sequence[operator_pb2.HeldPartition]:
        """Return the partitions that the node owns or follows, ascending."""
        owned = [
            _held(status, operator_pb2.ROLE_OWNER, self._updater.store_of(status.partition))
            for status in self._updater.status()
        ]
        followed = [
            _held(status, operator_pb2.ROLE_STANDBY, self._standby.store_of(status.partition))
            for status in self._standby.status()
        ]
        return sorted(owned + followed, key=lambda held: held.partition)

    def placements(self) -> Sequence[group_pb2.PlacedPartition]:
        """Return the known owners and standbys of every partition, ascending."""
        return self._owners.placements()

    def fingerprints(self, partition: int) -> Sequence[Fingerprint] | None:
        """Return the logged fingerprints of a partition and its present one; None if it is not open here."""
        store = self._updater.store_of(partition) or self._standby.store_of(partition)
        return None if store is None else self._fingerprints.of(partition, store.state)


def _held(
    status: PartitionStatus | StandbyStatus, role: operator_pb2.Role.ValueType, store: PartitionStore | None
) -> operator_pb2.HeldPartition:
    state = None if store is None else store.state
    return operator_pb2.HeldPartition(
        partition=status.partition,
        role=role,
        state=status.state.value,
        reason=status.reason,
        applied_offset=status.applied_offset,
        lag_records=status.lag,
        events=0 if state is None else state.events,
        fingerprint="" if state is None else as_text(state.fingerprint),
    )
