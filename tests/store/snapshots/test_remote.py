import uuid
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.registry import known_implementations

from lifeline.store.errors import SnapshotError
from lifeline.store.snapshots.remote import RemoteDirectory


@pytest.fixture(params=["file", "memory"])
def directory(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RemoteDirectory]:
    if request.param == "file":
        yield RemoteDirectory(f"file://{tmp_path}/remote", {})
        return
    name = f"/{uuid.uuid4().hex}"
    yield RemoteDirectory(f"memory:/{name}", {})
    memory = fsspec.filesystem("memory")
    if memory.exists(name):
        memory.rm(name, recursive=True)


def test_files_are_written_listed_read_and_removed(directory: RemoteDirectory, tmp_path: Path) -> None:
    assert (directory.files("a"), directory.directories(), directory.read("a/x")) == ({}, [], None)
    directory.write("a/x", b"123")
    directory.write("a/x", b"1234")
    (tmp_path / "up").write_bytes(b"12345")
    directory.upload(tmp_path / "up", "a/y")
    directory.write("b/z/deep", b"")
    directory.write("top", b"")
    assert directory.files("a") == {"x": 4, "y": 5}
    assert directory.files("b") == {}
    assert directory.directories() == ["a", "b"]
    assert directory.read("a/x") == b"1234"
    directory.download("a/y", tmp_path / "down")
    assert (tmp_path / "down").read_bytes() == b"12345"
    for _ in range(2):
        directory.remove("a/x")
    assert directory.files("a") == {"y": 5}


def test_what_is_not_there_cannot_be_fetched(directory: RemoteDirectory, tmp_path: Path) -> None:
    with pytest.raises(SnapshotError, match="check the address"):
        directory.download("a/x", tmp_path / "down")
    with pytest.raises(SnapshotError, match="check the address"):
        directory.upload(tmp_path / "nowhere", "a/x")
    assert directory.files("a") == {}


def test_a_write_to_a_disk_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = RemoteDirectory(f"file://{tmp_path}", {})
    directory.write("a/x", b"old")

    def half(self: LocalFileSystem, path: str, value: bytes) -> None:  # noqa: ARG001
        Path(path).write_bytes(value[:1])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(LocalFileSystem, "pipe_file", half)
    with pytest.raises(SnapshotError, match=r"cannot be written \(OSError: .*No space left"):
        directory.write("a/x", b"new")
    assert directory.files("a") == {"x": 3}
    assert directory.read("a/x") == b"old"


def test_an_unknown_protocol_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SnapshotError, match=r"nowhere://x cannot be used .*name a URL that fsspec supports"):
        RemoteDirectory("nowhere://x", {})
    missing = {"class": "no_such_module.FileSystem", "err": "Install nowherefs to access nowhere"}
    monkeypatch.setitem(known_implementations, "nowhere", missing)
    with pytest.raises(SnapshotError, match=r"needs a package .*\(Install nowherefs to access nowhere\): install it"):
        RemoteDirectory("nowhere://x", {})


def test_credentials_of_a_url_are_not_told() -> None:
    with pytest.raises(SnapshotError) as caught:
        RemoteDirectory("ftp://me:hunter2@127.0.0.1:1/x", {})
    assert "hunter2" not in str(caught.value)
    assert "ftp://***@127.0.0.1:1/x" in str(caught.value)
