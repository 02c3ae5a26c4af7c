"""Which snapshots and file contents the repository keeps, with several creators too."""

from pathlib import Path

import pytest

from lifeline.store.errors import SnapshotError, SnapshotRefusedError
from lifeline.store.partition import PartitionStore
from lifeline.store.snapshots.manifest import Manifest
from lifeline.store.snapshots.repository import SnapshotRepository
from tests.support.factories import SHAPE, open_store
from tests.support.snapshots import P, contents, fill, manifests, remote


def test_the_newest_stay_and_only_contents_that_no_manifest_names_go(
    url: str, source: PartitionStore, tmp_path: Path
) -> None:
    repository = SnapshotRepository(url, keep=2)
    other = open_store(tmp_path / "other", SHAPE, partition=4)
    SnapshotRepository(url, keep=1).create(other)
    other.close()
    created = []
    for offset in range(20, 24):
        fill(source, [offset])
        source.compact()
        created.append(repository.create(source).manifest)
    snapshots = repository.snapshots()
    assert [snapshot.id for snapshot in snapshots if snapshot.partition == 3] == [created[3].id, created[2].id]
    assert [snapshot.problem for snapshot in snapshots] == [None, None, None]
    kept = {file.sha256 for manifest in created[2:] for file in manifest.files}
    assert contents(repository) == kept
    assert not {file.sha256 for file in created[0].files} <= kept


def test_the_newest_is_the_one_of_the_highest_offset(url: str, source: PartitionStore, tmp_path: Path) -> None:
    repository = SnapshotRepository(url, keep=1)
    fill(source, range(20, 40))
    newest = repository.create(source).manifest
    behind = open_store(tmp_path / "behind", SHAPE)
    fill(behind, range(5))
    older = repository.create(behind).manifest
    behind.close()
    # A creator keeps its own snapshot, even one that is not among the newest.
    assert [snapshot.id for snapshot in repository.snapshots()] == [newest.id, older.id]
    fill(source, [40])
    again = repository.create(source).manifest
    assert [snapshot.id for snapshot in repository.snapshots()] == [again.id]


def test_a_refused_snapshot_takes_no_place_among_those_that_stay(url: str, source: PartitionStore) -> None:
    repository = SnapshotRepository(url, keep=1)
    good = repository.create(source).manifest
    fill(source, [20])
    bad = SnapshotRepository(url, keep=2).create(source).manifest
    remote(repository).write(f"{P}/manifests/{bad.id}.json", b"{}")
    before = contents(repository)
    older = open_store(source.path.parent / "older", SHAPE)
    fill(older, range(10))
    repository.create(older)
    older.close()
    snapshots = repository.snapshots()
    assert [(snapshot.id, snapshot.problem is None) for snapshot in snapshots[:2]] == [(bad.id, False), (good.id, True)]
    # Nothing says which contents the damaged snapshot needs, so all stay until retention removes the snapshot.
    assert before <= contents(repository)
    fill(source, [21])
    last = repository.create(source).manifest
    assert [snapshot.id for snapshot in repository.snapshots()] == [last.id]
    assert contents(repository) == {file.sha256 for file in last.files}


def test_of_two_creators_none_removes_what_the_other_needs(url: str, source: PartitionStore, tmp_path: Path) -> None:
    repository, other = SnapshotRepository(url, keep=1), SnapshotRepository(url, keep=1)
    first = repository.create(source).manifest
    concurrent: list[Manifest] = []

    def create_another(done: int, total: int) -> None:
        if done == total and not concurrent:
            fill(source, range(20, 30))
            source.compact()
            concurrent.append(other.create(source).manifest)

    last = repository.create(source, progress=create_another).manifest
    assert [(snapshot.id, snapshot.problem) for snapshot in repository.snapshots()] == [
        (concurrent[0].id, None),
        (last.id, None),
    ]
    assert first.id not in {concurrent[0].id, last.id}
    for manifest in (last, concurrent[0]):
        repository.restore(3, tmp_path / manifest.id, SHAPE, snapshot=manifest.id)


def test_a_snapshot_whose_contents_are_taken_away_while_it_is_made_is_not_one(
    repository: SnapshotRepository, source: PartitionStore
) -> None:
    repository.create(source)

    def take_away(done: int, total: int) -> None:
        if done == total:
            # All of them: which ones the new snapshot shares with the first depends on compactions.
            for name in contents(repository):
                remote(repository).remove(f"{P}/files/{name}")

    fill(source, [20])
    before = manifests(repository)
    with pytest.raises(SnapshotError, match=r"is incomplete \(.* are missing, .*create it again"):
        repository.create(source, progress=take_away)
    assert manifests(repository) == before


def test_a_topic_that_was_created_again_pushes_out_only_its_own(
    url: str, source: PartitionStore, tmp_path: Path
) -> None:
    repository = SnapshotRepository(url, keep=1)
    old = repository.create(source, topic="actions", topic_id="id-1").manifest
    again = open_store(tmp_path / "again", SHAPE)
    names = []
    for offset in range(3):
        fill(again, [offset])
        names.append(repository.create(again, topic="actions", topic_id="id-2").manifest.id)
    again.close()
    assert [snapshot.id for snapshot in repository.snapshots()] == [old.id, names[-1]]
    with pytest.raises(SnapshotRefusedError, match="the topic was created again with the id id-2"):
        repository.restore(3, tmp_path / "back", SHAPE, snapshot=old.id, topic="actions", topic_id="id-2")
    assert not (tmp_path / "back").exists()
    repository.restore(3, tmp_path / "back", SHAPE, snapshot=names[-1], topic="actions", topic_id="id-2")
