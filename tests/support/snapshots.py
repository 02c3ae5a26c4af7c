"""What the tests of snapshots share: a store with a history, a repository, and what is at its URL."""

from collections.abc import Iterable
from pathlib import Path

from lifeline.store.partition import PartitionStore
from lifeline.store.snapshots.remote import RemoteDirectory
from lifeline.store.snapshots.repository import Snapshot, SnapshotRepository
from tests.support.factories import batch_of, work

P = "partition-00003"


def fill(store: PartitionStore, offsets: Iterable[int]) -> None:
    for offset in offsets:
        store.apply(batch_of(work(offset)), offset=offset)


def remote(repository: SnapshotRepository) -> RemoteDirectory:
    return RemoteDirectory(repository.url, {})


def contents(repository: SnapshotRepository) -> set[str]:
    return set(remote(repository).files(f"{P}/files"))


def manifests(repository: SnapshotRepository) -> list[str]:
    return sorted(remote(repository).files(f"{P}/manifests"))


def only(repository: SnapshotRepository) -> Snapshot:
    (snapshot,) = repository.snapshots()
    return snapshot


def names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir()) if directory.exists() else []
