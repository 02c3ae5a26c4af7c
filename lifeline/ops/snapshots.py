"""Snapshots and restores of the data directory of a stopped node."""

from collections.abc import Callable, Sequence

from rich.progress import Progress

from lifeline.config import Settings
from lifeline.core.paths import partition_dir, partitions_in
from lifeline.ops.topic_note import TOPIC_NOTE, TopicIdentity
from lifeline.store.data_lock import data_dir_lock
from lifeline.store.errors import SnapshotError
from lifeline.store.memory import SharedMemory
from lifeline.store.partition import PartitionStore
from lifeline.store.snapshots.files import check_restore_target
from lifeline.store.snapshots.repository import CreatedSnapshot, RestoredSnapshot, SnapshotRepository

_MIB = 1 << 20


def create_offline(settings: Settings, partitions: Sequence[int], progress: Progress) -> list[CreatedSnapshot]:
    """Create snapshots of the named partitions of the data directory, or of all; ascending.

    Raises DataDirError, StoreLockedError if a node is running in the directory, and what opening a partition and
    `SnapshotRepository.create` raise.
    """
    repository = SnapshotRepository.of(settings.snapshot)
    stored = partitions_in(settings.node.data_dir)
    if not stored:
        raise SnapshotError(f"{settings.node.data_dir} holds no partition: name the node's directory with --data-dir")
    _check_known(partitions, stored, str(settings.node.data_dir))
    created = []
    with data_dir_lock(settings.node.data_dir):
        topic_id = _noted_topic_id(settings)
        memory = SharedMemory(settings.store)
        for number in sorted(set(partitions or stored)):
            path = partition_dir(settings.node.data_dir, number)
            store = PartitionStore.open(path, partition=number, settings=settings.store, memory=memory)
            try:
                follow = _bar(progress, f"uploading partition {number}")
                created.append(
                    repository.create(store, topic=settings.kafka.actions_topic, topic_id=topic_id, progress=follow)
                )
            finally:
                store.close()
    return created


def restore(
    settings: Settings, partitions: Sequence[int], progress: Progress, *, snapshot: str | None, verify: bool
) -> list[RestoredSnapshot]:
    """Restore the named partitions, or all that have snapshots, into the data directory; ascending.

    `snapshot` is the id of a snapshot of the only named partition; without it the newest is restored. Raises
    DataDirError, StoreLockedError if a node is running in the directory, and what `SnapshotRepository.restore` raises.
    """
    repository = SnapshotRepository.of(settings.snapshot)
    available = sorted({snapshot.partition for snapshot in repository.snapshots()})
    if not available:
        raise SnapshotError(f"{repository.url} has no snapshots: create one with `lifeline snapshot create`")
    _check_known(partitions, available, repository.url)
    restored = []
    with data_dir_lock(settings.node.data_dir):
        paths = {
            number: partition_dir(settings.node.data_dir, number) for number in sorted(set(partitions or available))
        }
        for path in paths.values():
            check_restore_target(path)
        topic_id = _noted_topic_id(settings)
        for number, path in paths.items():
            result = repository.restore(
                number,
                path,
                settings.store,
                snapshot=snapshot,
                topic=settings.kafka.actions_topic,
                topic_id=topic_id,
                verify=verify,
                progress=_bar(progress, f"downloading partition {number}"),
            )
            restored.append(result)
            topic_id = topic_id or result.manifest.topic_id
        if topic_id:
            # So that no node continues with partitions of an earlier topic.
            TopicIdentity(settings.kafka.actions_topic, topic_id, settings.kafka.partitions).check(
                settings.node.data_dir
            )
    return restored


def _noted_topic_id(settings: Settings) -> str:
    """Return the id of the topic that the data directory comes from; empty if it has no note. Raises DataDirError."""
    note = settings.node.data_dir / TOPIC_NOTE
    return TopicIdentity.read(note).topic_id if note.exists() else ""


def _check_known(partitions: Sequence[int], available: Sequence[int], where: str) -> None:
    missing = sorted(set(partitions) - set(available))
    if missing:
        raise SnapshotError(
            f"{where} has no partition {', '.join(map(str, missing))}: it has {', '.join(map(str, available))}"
        )


def _bar(progress: Progress, what: str) -> Callable[[int, int], None]:
    task = progress.add_task(what, total=None, note="MiB")

    def follow(done: int, total: int) -> None:
        progress.update(task, completed=done / _MIB, total=total / _MIB)

    return follow
