"""Opens a partition's store from the local disk, or restored from the newest snapshot, or empty.

In each case the log completes the state. A snapshot that is incomplete, has other caps or ages, or is of an earlier
topic with the same name, is skipped, and the reason is logged. An unreachable snapshot repository is an error, because
the operator expects a restore and not a replay of the whole log.
"""

from pathlib import Path

import structlog

from lifeline.store.errors import RetentionPolicyError, SnapshotRefusedError
from lifeline.store.memory import SharedMemory
from lifeline.store.partition import PartitionStore
from lifeline.store.settings import StoreSettings
from lifeline.store.snapshots.repository import SnapshotRepository

_log = structlog.get_logger(__name__)


def open_or_restore(
    path: Path,
    partition: int,
    *,
    settings: StoreSettings,
    memory: SharedMemory,
    snapshots: SnapshotRepository | None,
    topic: str,
    topic_id: str,
) -> PartitionStore:
    """Open the store in `path`; if there is none, first restore the newest complete snapshot of this topic.

    Raises SnapshotError, and what `PartitionStore.open` raises.
    """
    if snapshots is not None and not path.exists():
        _restore(path, partition, settings, snapshots, (topic, topic_id))
    return PartitionStore.open(path, partition=partition, settings=settings, memory=memory)


def _restore(
    path: Path, partition: int, settings: StoreSettings, snapshots: SnapshotRepository, topic: tuple[str, str]
) -> None:
    for snapshot in snapshots.snapshots(partition):
        try:
            # The hashes of the files are checked. Counting all events as well would take much of the time that the
            # restore saves.
            restored = snapshots.restore(
                partition, path, settings, snapshot=snapshot.id, topic=topic[0], topic_id=topic[1], verify=False
            )
        except (SnapshotRefusedError, RetentionPolicyError) as error:
            _log.error("a snapshot was skipped", partition=partition, snapshot=snapshot.id, why=str(error))
            continue
        _log.info(
            "restored",
            partition=partition,
            snapshot=snapshot.id,
            applied_offset=restored.manifest.state.applied_offset,
            seconds=round(restored.seconds, 3),
        )
        return
    _log.info("no snapshot to restore: replaying the log from its start", partition=partition, url=snapshots.url)
