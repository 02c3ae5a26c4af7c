"""Snapshots that are restored: the partition goes on where the source was."""

from pathlib import Path

import pytest

from lifeline.store.errors import RetentionPolicyError, SnapshotError
from lifeline.store.partition import PartitionStore
from lifeline.store.recount import recount
from lifeline.store.snapshots.repository import SnapshotRepository
from lifeline.store.state import State
from tests.support.factories import SHAPE, Model, open_store, tiny, work
from tests.support.snapshots import P, fill, names_in


@pytest.mark.parametrize("exists", [False, True])
def test_a_restored_partition_is_the_source_and_goes_on(
    repository: SnapshotRepository, source: PartitionStore, tmp_path: Path, exists: bool
) -> None:
    created = repository.create(source, topic="actions")
    into = tmp_path / "back" / P
    if exists:
        into.mkdir(parents=True)
    steps: list[tuple[int, int]] = []
    restored = repository.restore(
        3, into, SHAPE, topic="actions", progress=lambda done, total: steps.append((done, total))
    )
    assert (restored.manifest, restored.path) == (created.manifest, into)
    assert steps[-1] == (created.manifest.total_bytes, created.manifest.total_bytes)
    assert names_in(into.parent) == [P]
    back = open_store(into, SHAPE)
    assert back.state == source.state
    assert recount(back) == recount(source)
    fill(back, range(20, 60))
    model = Model(SHAPE)
    for offset in range(60):
        model.apply(work(offset))
    model.check(back)
    back.close()


def test_an_empty_partition_has_snapshots_too(repository: SnapshotRepository, tmp_path: Path) -> None:
    store = open_store(tmp_path / "empty", SHAPE)
    assert repository.create(store).manifest.id.startswith("-0000000000000000001-")
    store.close()
    repository.restore(3, tmp_path / "back", SHAPE)
    back = open_store(tmp_path / "back", SHAPE)
    assert back.state == State()
    back.close()


def test_an_older_one_can_be_restored(repository: SnapshotRepository, source: PartitionStore, tmp_path: Path) -> None:
    old = repository.create(source).manifest
    fill(source, range(20, 30))
    repository.create(source)
    assert repository.restore(3, tmp_path / "new", SHAPE).manifest.state.applied_offset == 29
    repository.restore(3, tmp_path / "old", SHAPE, snapshot=old.id, verify=False)
    back = open_store(tmp_path / "old", SHAPE)
    assert back.applied_offset == 19
    back.close()
    with pytest.raises(SnapshotError, match="has no snapshot 7 of partition 3: `lifeline snapshot list` shows"):
        repository.restore(3, tmp_path / "none", SHAPE, snapshot="7")


def test_nothing_is_overwritten(repository: SnapshotRepository, source: PartitionStore) -> None:
    repository.create(source)
    with pytest.raises(SnapshotError, match=r"is not empty, and a restore overwrites nothing: set it aside"):
        repository.restore(3, source.path, SHAPE)
    file = source.path.parent / "file"
    file.write_text("mine")
    with pytest.raises(SnapshotError, match="is not empty"):
        repository.restore(3, file, SHAPE)
    assert names_in(source.path.parent) == ["file", P]


def test_what_belongs_to_other_settings_is_not_restored(
    repository: SnapshotRepository, source: PartitionStore, tmp_path: Path
) -> None:
    repository.create(source, topic="actions")
    with pytest.raises(RetentionPolicyError, match="max_explicit is 40 and the settings say 41"):
        repository.restore(3, tmp_path / "back", tiny(max_explicit=41))
    with pytest.raises(SnapshotError, match="is of topic actions, and the settings name others"):
        repository.restore(3, tmp_path / "back", SHAPE, topic="others")
    assert not (tmp_path / "back").exists()
