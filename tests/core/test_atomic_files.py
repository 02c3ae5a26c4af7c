import os
from pathlib import Path

import pytest

from lifeline.core.atomic_files import replacement, sync_tree, write_durably


@pytest.mark.parametrize("content", ["text", b"\x00\xff", ""])
def test_a_file_is_created_and_replaced(tmp_path: Path, content: str | bytes) -> None:
    path = tmp_path / "note.json"
    path.write_text("before")
    write_durably(path, content)
    assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert list(tmp_path.iterdir()) == [path]


def test_a_writer_that_fails_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "note.json"
    path.write_text("before")

    def fail_half_way() -> None:
        with replacement(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_half_way()
    assert path.read_text() == "before"
    write_durably(path, "after")
    assert path.read_text() == "after"
    assert list(tmp_path.iterdir()) == [path]


def test_the_content_is_synced_before_the_rename_and_the_directory_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "note.json"
    steps: list[tuple[str, bool]] = []

    def fsync(descriptor: int) -> None:
        steps.append((str(Path(f"/proc/self/fd/{descriptor}").readlink()), path.exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    write_durably(path, "text")
    assert steps == [(str(tmp_path / ".note.json.new"), False), (str(tmp_path), True)]


def test_a_directory_is_synced_after_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [tmp_path / "a", tmp_path / "b"]
    for name in names:
        name.write_text("x")
    synced: list[str] = []
    monkeypatch.setattr(
        os, "fsync", lambda descriptor: synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
    )
    sync_tree(tmp_path)
    assert sorted(synced[:-1]) == [str(name) for name in names]
    assert synced[-1] == str(tmp_path)
