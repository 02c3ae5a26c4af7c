"""Snapshots that are made while the store is written to, what a snapshot uploads, and where it is kept."""

import json
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from lifeline.store.errors import NotOwnerError, SnapshotError
from lifeline.store.partition import PartitionStore
from lifeline.store.snapshots.files import remove_leftovers
from lifeline.store.snapshots.repository import SnapshotRepository
from lifeline.store.snapshots.settings import SnapshotSettings
from tests.support.factories import SHAPE, open_follower, open_store
from tests.support.processes import child, said
from tests.support.snapshots import P, contents, fill, names_in, only, remote

CHILD = """
import sys
import threading
from pathlib import Path
from lifeline.store.snapshots.repository import SnapshotRepository
from tests.support.factories import SHAPE, open_store

def hold(done, total):
    if done == total:
        print("uploaded", flush=True)
        threading.Event().wait()

SnapshotRepository(sys.argv[2]).create(open_store(Path(sys.argv[1]), SHAPE), progress=hold)
"""


def test_a_snapshot_says_what_it_is(repository: SnapshotRepository, source: PartitionStore) -> None:
    created = repository.create(source, topic="actions")
    snapshot = only(repository)
    assert (snapshot.partition, snapshot.id, snapshot.problem, snapshot.manifest) == (
        3,
        created.manifest.id,
        None,
        created.manifest,
    )
    assert (created.manifest.topic, created.manifest.state.applied_offset) == ("actions", 19)
    assert created.manifest.state.events == source.state.events
    assert datetime.now(UTC) - created.manifest.created_at < timedelta(minutes=1)
    assert source.policy is not None
    assert created.manifest.contract == source.policy._asdict()
    assert created.uploaded_bytes == created.manifest.total_bytes > 0
    assert repository.snapshots(4) == []
    assert repository.partitions() == [3]


def test_only_what_changed_is_uploaded(repository: SnapshotRepository, source: PartitionStore) -> None:
    source.compact()
    first = repository.create(source)
    fill(source, [20])
    steps: list[tuple[int, int]] = []
    second = repository.create(source, progress=lambda done, total: steps.append((done, total)))
    known = {file.sha256 for file in first.manifest.files}
    new = [file for file in second.manifest.files if file.sha256 not in known]
    assert second.uploaded_files == len({file.sha256 for file in new}) < len(second.manifest.files)
    assert second.uploaded_bytes == sum(file.bytes for file in new)
    assert len(steps) == len(second.manifest.files)
    assert steps[-1] == (second.manifest.total_bytes, second.manifest.total_bytes)


def test_what_has_another_size_is_uploaded_again(repository: SnapshotRepository, source: PartitionStore) -> None:
    first = repository.create(source).manifest.files[0]
    remote(repository).write(f"{P}/files/{first.sha256}", b"cut")
    assert only(repository).problem == f"{first.name} has 3 bytes, and must have {first.bytes}"
    repository.create(source)
    assert [snapshot.problem for snapshot in repository.snapshots()] == [None, None]


def test_the_store_goes_on_while_snapshots_are_made(
    repository: SnapshotRepository, source: PartitionStore, tmp_path: Path
) -> None:
    states = {source.applied_offset: source.state}
    done = threading.Event()

    def write() -> None:
        offset = 20
        while not done.is_set() and offset < 3_000:
            fill(source, [offset])
            states[offset] = source.state
            offset += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        names = [repository.create(source).manifest.id for _ in range(3)]
    finally:
        done.set()
        writer.join()
    for name in names:
        into = tmp_path / name
        repository.restore(3, into, SHAPE, snapshot=name)
        follower = open_follower(into)
        assert follower.state == states[follower.applied_offset]
        follower.close()


def test_a_closed_store_is_not_copied(repository: SnapshotRepository, source: PartitionStore) -> None:
    source.close()
    with pytest.raises(NotOwnerError):
        repository.create(source)
    assert repository.snapshots() == []


def test_nothing_stays_beside_the_store(repository: SnapshotRepository, source: PartitionStore) -> None:
    repository.create(source)

    def stop(_done: int, _total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        repository.create(source, progress=stop)
    assert names_in(source.path.parent) == [P]
    assert len(repository.snapshots()) == 1
    assert remote(repository).files(f"{P}/uploads") == {}


def test_a_creator_that_is_killed_leaves_no_snapshot(tmp_path: Path) -> None:
    data, repository = tmp_path / "data", SnapshotRepository(f"file://{tmp_path}/snapshots", keep=1)
    store = open_store(data / P, SHAPE)
    fill(store, range(20))
    store.close()
    with child(CHILD, data / P, repository.url) as process:
        said(process, "uploaded")
        process.kill()
        process.wait()
    assert contents(repository)
    assert repository.snapshots() == []
    with pytest.raises(SnapshotError, match="has no snapshot of partition 3: create one"):
        repository.restore(3, tmp_path / "back", SHAPE)
    (left,) = [name for name in names_in(data) if name != P]
    assert left.startswith(f"{P}.snapshot-")
    assert remove_leftovers(data) == [left]
    assert names_in(data) == [P]

    store = open_store(data / P, SHAPE)
    created = repository.create(store)
    # The uploaded contents are used, and none are removed: the killed creator may still be at work.
    assert created.uploaded_files < len(created.manifest.files)
    assert contents(repository) > {file.sha256 for file in created.manifest.files}
    (announced,) = remote(repository).files(f"{P}/uploads")
    remote(repository).remove(f"{P}/uploads/{announced}")
    remote(repository).write(f"{P}/uploads/20200101T000000-0", b"")
    created = repository.create(store)
    assert contents(repository) == {file.sha256 for file in created.manifest.files}
    assert remote(repository).files(f"{P}/uploads") == {}
    store.close()


def test_the_settings_make_the_repository(tmp_path: Path, source: PartitionStore) -> None:
    with pytest.raises(SnapshotError, match="no URL for snapshots is configured"):
        SnapshotRepository.of(SnapshotSettings())
    repository = SnapshotRepository.of(SnapshotSettings(url=str(tmp_path / "snapshots"), keep=1))
    for offset in (20, 21):
        fill(source, [offset])
        repository.create(source)
    assert len(repository.snapshots()) == 1


def test_a_url_that_cannot_be_written_is_one_sentence(source: PartitionStore, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    repository = SnapshotRepository(f"file://{tmp_path}/file/below")
    with pytest.raises(SnapshotError, match=r"/file/below cannot be written \(.*check the address"):
        repository.create(source)
    assert names_in(source.path.parent) == [P]


def test_strange_files_at_the_url_are_let_be(repository: SnapshotRepository, source: PartitionStore) -> None:
    remote(repository).write("readme.txt", b"mine")
    remote(repository).write("partition-x/readme.txt", b"mine")
    remote(repository).write(f"{P}/manifests/readme.txt", b"mine")
    manifest = repository.create(source).manifest
    assert [snapshot.id for snapshot in repository.snapshots()] == [manifest.id]
    assert json.loads(remote(repository).read(f"{P}/manifests/{manifest.id}.json") or b"")["partition"] == 3
    assert remote(repository).read("readme.txt") == b"mine"
