"""Caches and temporary directories where a container has no user, no home, or nothing that can be written."""

import os
import pwd
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from lifeline.core.scratch import ScratchError, cache_dir, temporary_dir

REPOSITORY = Path(__file__).parents[2]
STRANGER = 54_321
"""A user id without an entry in passwd."""


def _no_entry(uid: int) -> NoReturn:
    raise KeyError(f"getpwuid(): uid not found: {uid}")


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the directory of temporary files, of a process without a home and without a cache of its own."""
    path = tmp_path / "temporary"
    path.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", _no_entry)
    return path


def test_a_configured_cache_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/cache/me")
    assert cache_dir() == Path("/var/cache/me/lifeline")


@pytest.mark.parametrize("configured", ["", "relative"])
def test_the_cache_is_in_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, configured: str) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", configured)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_dir() == tmp_path / ".cache" / "lifeline"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("temporary")
def test_without_a_home_it_is_a_private_directory(temporary: Path) -> None:
    path = cache_dir()
    assert path == temporary / f"lifeline-{os.geteuid()}"
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert cache_dir() == path


@pytest.mark.parametrize("home", ["/dev/null", "/nonexistent-home/me", "relative", "/proc"])
def test_a_home_that_cannot_be_written_counts_as_none(
    temporary: Path, monkeypatch: pytest.MonkeyPatch, home: str
) -> None:
    # For root every directory can be written, but not this one.
    monkeypatch.setattr(os, "access", lambda path, _mode: Path(path) not in {Path("/"), Path("/proc")})
    monkeypatch.setenv("HOME", home)
    assert cache_dir().parent == temporary


def test_a_cache_in_a_home_that_cannot_be_written_is_used(
    temporary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_dir().parent == temporary
    # An image may have brought it.
    (tmp_path / ".cache" / "lifeline").mkdir(parents=True)
    assert cache_dir() == tmp_path / ".cache" / "lifeline"


@pytest.mark.parametrize("what", ["link", "file", "open to others", "of another user"])
def test_a_directory_that_another_user_may_have_made_is_refused(
    temporary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    path = temporary / f"lifeline-{os.geteuid()}"
    match what:
        case "link":
            (tmp_path / "elsewhere").mkdir(mode=0o700)
            path.symlink_to(tmp_path / "elsewhere")
        case "file":
            path.write_text("")
        case "open to others":
            path.mkdir()
            path.chmod(0o770)
        case _:
            other = os.geteuid() + 1
            monkeypatch.setattr(os, "geteuid", lambda: other)
            (temporary / f"lifeline-{other}").mkdir(mode=0o700)
    with pytest.raises(ScratchError, match=r"lifeline-\d+ (is not a directory of this user|cannot be made).*XDG_CACHE"):
        cache_dir()


def test_without_a_temporary_directory_one_sentence_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> NoReturn:
        raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr(tempfile, "gettempdir", refuse)
    with pytest.raises(ScratchError, match="set TMPDIR to one"):
        temporary_dir("lifeline-")


@pytest.fixture
def of_a_stranger() -> Iterator[Path]:
    """Return a directory of a user whom nothing knows."""
    path = Path(tempfile.mkdtemp(prefix="lifeline-stranger-"))
    os.chown(path, STRANGER, STRANGER)
    yield path
    shutil.rmtree(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("home", [None, "/", "/root"])
def test_a_user_whom_nothing_knows_has_a_cache(of_a_stranger: Path, home: str | None) -> None:
    # It becomes that user once it has what it needs: this Python may be in a directory that others cannot read.
    program = (
        "import os, pwd, tempfile; import jgo.maven; from lifeline.core.scratch import cache_dir;"
        "from lifeline.dev.kafka_jars import _maven;"
        f"os.setgroups([]); os.setresgid(*[{STRANGER}] * 3); os.setresuid(*[{STRANGER}] * 3);"
        "path = cache_dir(); _maven(path / 'repository'); print(path)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program],
        cwd=REPOSITORY,
        env={"TMPDIR": str(of_a_stranger)} | ({"HOME": home} if home else {}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.stderr == ""
    assert ran.stdout == f"{of_a_stranger}/lifeline-{STRANGER}\n"
