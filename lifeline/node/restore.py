"""Opening a partition's store: what is on the local disk, else the newest snapshot, else nothing yet.

In each case the log gives the rest. A snapshot that is not whole, or that was made with other caps, is passed over
with its reason, for the log gives the same state; a place for snapshots that cannot be reached is an error, for a
replay of the whole log is not what was meant then.
"""

from pathlib import Path

import structlog

from lifeline.store.errors import ContractError, SnapshotRefusedError
from lifeline.store.memory import SharedMemory
from lifeline.store.partition import PartitionStore
from lifeline.store.settings import StoreSettings
from lifeline.store.snapshots.repository import SnapshotRepository

_log = structlog.get_logger(__name__)


def open_partition(
    path: Path,
    partition: int,
    *,
    settings: StoreSettings,
    memory: SharedMemory,
    snapshots: SnapshotRepository | None,
    topic: str,
) -> PartitionStore:
    """Open the store in `path`; without one there, restore the newest snapshot of `topic` that is whole first.

    Raises SnapshotError, and what `PartitionStore.open` raises.
    """
    if snapshots is not None and not path.exists():
        _restore(path, partition, settings, snapshots, topic)
    return PartitionStore.open(path, partition=partition, settings=settings, memory=memory)


def _restore(path: Path, partition: int, settings: StoreSettings, snapshots: SnapshotRepository, topic: str) -> None:
    for snapshot in snapshots.snapshots(partition):
        try:
            # What it holds is proven by the hashes of its files; adding up all events anew would take as long as a
            # part of the replay that it saves.
            done = snapshots.restore(partition, path, settings, snapshot=snapshot.id, topic=topic, verify=False)
        except (SnapshotRefusedError, ContractError) as error:
            _log.error("a snapshot was passed over", partition=partition, snapshot=snapshot.id, why=str(error))
            continue
        _log.info(
            "restored",
            partition=partition,
            snapshot=snapshot.id,
            applied_offset=done.manifest.state.applied_offset,
            seconds=round(done.seconds, 3),
        )
        return
    _log.info("no snapshot to restore: the log gives the whole state", partition=partition, url=snapshots.url)
