import os
from pathlib import Path

import pytest

from lifeline.scorer.errors import ModelCorruptError, ModelNotFoundError
from lifeline.scorer.versions import Version, directories, find


@pytest.fixture
def models(tmp_path: Path) -> Path:
    for name in ("1", "v2.0-b_C", "a" * 64):
        (tmp_path / "models" / "transact" / name).mkdir(parents=True)
    return tmp_path / "models"


def test_directories_whose_name_is_one_of_a_version_are_listed(models: Path) -> None:
    for name in (".hidden", "a" * 65, "with space", "é", "new\nline"):
        (models / "transact" / name).mkdir()
    (models / "transact" / "file").write_text("")
    (models / "transact" / "link").symlink_to(models / "transact" / "1")
    assert [version.name for version in directories(models, "transact")] == ["1", "a" * 64, "v2.0-b_C"]
    assert find(models, "transact", "1") == Version("transact", "1", models / "transact" / "1")


def test_without_a_directory_there_is_no_version(models: Path) -> None:
    (models / "file").write_text("")
    assert directories(models, "other") == directories(models, "file") == []


@pytest.mark.parametrize("name", ["2", "", ".", "..", "../transact/1", "1/", "1/.", "/", "1\n", "1\0", "a" * 10_000])
def test_what_is_not_listed_is_not_found(models: Path, name: str) -> None:
    with pytest.raises(ModelNotFoundError, match=r"correct scorer\.models_dir"):
        find(models, "transact", name)


def test_a_file_is_read_whole_and_within_its_limit(models: Path) -> None:
    version = find(models, "transact", "1")
    (version.path / "file").write_bytes(b"12345")
    assert version.read("file", 5) == b"12345"
    with pytest.raises(ModelCorruptError, match=r"file of transact/1 has 5 bytes, more than 4: do this"):
        version.read("file", 4, "do this")
    with pytest.raises(FileNotFoundError):
        version.read("other", 4)


def test_nothing_but_a_regular_file_is_read(models: Path) -> None:
    version = find(models, "transact", "1")
    (version.path / "link").symlink_to("/etc/passwd")
    (version.path / "directory").mkdir()
    # Whoever opens it for reading waits for a writer.
    os.mkfifo(version.path / "pipe")
    for name in ("link", "directory", "pipe"):
        with pytest.raises(ModelCorruptError, match=f"{name} of transact/1 .*: put the version back"):
            version.read(name, 1 << 20)
