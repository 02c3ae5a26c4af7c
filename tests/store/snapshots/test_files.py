import hashlib
from pathlib import Path

import pytest

from lifeline.store.errors import SnapshotError
from lifeline.store.snapshots.files import (
    RESTORING,
    SNAPSHOT,
    check_restore_target,
    files_of,
    remove_leftovers,
    sha256_of,
    staging_path,
)


def test_what_is_aside_lies_on_the_same_disk_and_goes(tmp_path: Path) -> None:
    path = tmp_path / "new" / "partition-00001"
    with staging_path(path, SNAPSHOT) as place:
        assert not place.exists()
        assert place.parent.parent == path.parent
        place.mkdir()
        (place / "file").write_text("x")
    assert list(path.parent.iterdir()) == []


def test_what_was_moved_away_stays(tmp_path: Path) -> None:
    path = tmp_path / "partition-00001"
    with staging_path(path, RESTORING) as place:
        place.mkdir()
        place.rename(path)
    assert list(tmp_path.iterdir()) == [path]


def fill_the_disk(place: Path) -> None:
    place.mkdir()
    raise OSError(28, "No space left on device")


def test_what_the_disk_refuses_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(SnapshotError, match=r"cannot be written .* check the permissions and the free space of"),
        staging_path(tmp_path / "file" / "partition-00001", SNAPSHOT),
    ):
        pass
    with (
        pytest.raises(SnapshotError, match="No space left"),
        staging_path(tmp_path / "partition-00001", SNAPSHOT) as place,
    ):
        fill_the_disk(place)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_only_leftovers_are_removed(tmp_path: Path) -> None:
    kept = {"partition-00001", "items", "my.snapshot-1", "node.lock"}
    gone = {"partition-00001.snapshot-abc", "partition-00002.restoring-x1"}
    for name in kept | gone:
        (tmp_path / name / "deep").mkdir(parents=True)
    assert remove_leftovers(tmp_path) == sorted(gone)
    assert {path.name for path in tmp_path.iterdir()} == kept
    assert remove_leftovers(tmp_path / "nowhere") == []


def test_files_are_named_sized_and_hashed(tmp_path: Path) -> None:
    contents = {"b": b"", "a": b"x" * 1_000_000}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    assert [(file.name, file.bytes, file.sha256) for file in files_of(tmp_path)] == [
        (name, len(contents[name]), hashlib.sha256(contents[name]).hexdigest()) for name in ("a", "b")
    ]
    assert sha256_of(tmp_path / "b") == hashlib.sha256().hexdigest()


def test_free_is_what_is_not_there_or_empty(tmp_path: Path) -> None:
    check_restore_target(tmp_path)
    check_restore_target(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file"):
        with pytest.raises(SnapshotError, match="is not empty"):
            check_restore_target(path)
