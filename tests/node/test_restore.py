"""A partition's store comes from the local disk, else from the newest snapshot that is whole, else from nothing."""

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from lifeline.node.restore import open_or_restore
from lifeline.store.errors import SnapshotError
from lifeline.store.memory import SharedMemory
from lifeline.store.partition import PartitionStore
from lifeline.store.settings import StoreSettings
from lifeline.store.snapshots.repository import SnapshotRepository
from tests.support.snapshots import P, fill

SETTINGS = StoreSettings(max_explicit=50, chunk_events=16, keep_unsealed=8)
PARTITION = 3


@pytest.fixture
def repository(tmp_path: Path) -> SnapshotRepository:
    return SnapshotRepository(f"file://{tmp_path}/snapshots", keep=5)


@pytest.fixture
def snapshots(repository: SnapshotRepository, tmp_path: Path) -> list[tuple[str, int]]:
    """Two snapshots of one store: id and fingerprint, the older one first."""
    store = opened(tmp_path / "source", None)
    found = []
    for offsets in (range(20), range(20, 30)):
        fill(store, offsets)
        found.append((repository.create(store, topic="actions", topic_id="id-1").manifest.id, store.fingerprint))
    store.close()
    return found


def opened(
    path: Path, snapshots: SnapshotRepository | None, settings: StoreSettings = SETTINGS, topic_id: str = "id-1"
) -> PartitionStore:
    return open_or_restore(
        path,
        PARTITION,
        settings=settings,
        memory=SharedMemory(settings),
        snapshots=snapshots,
        topic="actions",
        topic_id=topic_id,
    )


def state_of(path: Path, snapshots: SnapshotRepository, settings: StoreSettings = SETTINGS) -> tuple[int, int]:
    """Return the applied offset and the fingerprint."""
    store = opened(path, snapshots, settings)
    try:
        return store.applied_offset, store.fingerprint
    finally:
        store.close()


def test_the_newest_snapshot_is_restored_where_there_is_no_directory(
    repository: SnapshotRepository, snapshots: list[tuple[str, int]], tmp_path: Path
) -> None:
    assert state_of(tmp_path / P, repository) == (29, snapshots[1][1])


def test_what_is_on_the_disk_stays(
    repository: SnapshotRepository, snapshots: list[tuple[str, int]], tmp_path: Path
) -> None:
    store = opened(tmp_path / P, None)
    fill(store, range(3))
    fingerprint = store.fingerprint
    store.close()
    assert state_of(tmp_path / P, repository) == (2, fingerprint)
    assert len(snapshots) == 2


def test_a_snapshot_that_was_tampered_with_is_passed_over_for_the_one_before(
    repository: SnapshotRepository, snapshots: list[tuple[str, int]], tmp_path: Path
) -> None:
    newest, older = repository.snapshots(PARTITION)
    assert newest.manifest is not None
    assert older.manifest is not None
    only = {file.sha256 for file in newest.manifest.files} - {file.sha256 for file in older.manifest.files}
    (tmp_path / "snapshots" / P / "files" / min(only)).write_bytes(b"something else")
    assert state_of(tmp_path / P, repository) == (19, snapshots[0][1])


def test_without_one_that_fits_the_log_gives_it_all(
    repository: SnapshotRepository, snapshots: list[tuple[str, int]], tmp_path: Path
) -> None:
    assert snapshots
    assert state_of(tmp_path / P, repository, SETTINGS.model_copy(update={"max_explicit": 60})) == (-1, 0)
    nothing = SnapshotRepository(f"file://{tmp_path}/elsewhere")
    assert state_of(tmp_path / "again" / P, nothing) == (-1, 0)


def test_a_place_that_does_not_answer_is_an_error_and_no_reason_to_begin_anew(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(SnapshotError):
        opened(tmp_path / P, SnapshotRepository(f"file://{tmp_path}/file/below"))
    assert not (tmp_path / P).exists()


def test_a_snapshot_of_an_earlier_topic_is_not_restored(
    repository: SnapshotRepository, snapshots: list[tuple[str, int]], tmp_path: Path
) -> None:
    with capture_logs() as logs:
        store = opened(tmp_path / P, repository, topic_id="id-2")
    assert store.applied_offset == -1
    store.close()
    assert [line["snapshot"] for line in logs if line["event"] == "a snapshot was skipped"] == [
        name for name, _ in reversed(snapshots)
    ]
    assert "created again with the id id-2" in logs[0]["why"]
