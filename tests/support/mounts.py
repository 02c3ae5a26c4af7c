"""File systems of a test's own: a small disk, and a directory that is mounted read-only. Both need root."""

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_MIB = 1 << 20


@contextmanager
def small_disk(path: Path, size: int) -> Iterator[Callable[[int], None]]:
    """Mount a filesystem of `size` bytes, and give what makes it another size; raises OSError where one may not."""
    path.mkdir(parents=True)
    mount("-t", "tmpfs", "-o", f"size={size}", "lifeline-test", str(path))
    try:
        yield lambda new: mount("-o", f"remount,size={new}", str(path))
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def used(path: Path) -> int:
    """Return the used bytes of the file system of `path`."""
    found = os.statvfs(path)
    return (found.f_blocks - found.f_bfree) * found.f_frsize


def can_mount(path: Path) -> bool:
    try:
        with small_disk(path, _MIB):
            return True
    except OSError:
        return False


@contextmanager
def read_only(path: Path, view: Path) -> Iterator[Path]:
    """Yield a directory with the content of `path` in which nothing can be written.

    It is a read-only mount at `view`, or, for a user who is not root, `path` itself without permission to write.
    """
    if os.geteuid() != 0:
        with _without_write_permission(path):
            yield path
        return
    if not can_mount(view.with_name(f"{view.name}-probe")):
        pytest.skip("root may not mount here, and permissions do not stop root: run the tests as another user")
    view.mkdir()
    mount("--bind", str(path), str(view))
    try:
        mount("-o", "remount,bind,ro", str(view))
        yield view
    finally:
        subprocess.run(["umount", "--lazy", str(view)], check=True)


@contextmanager
def _without_write_permission(path: Path) -> Iterator[None]:
    modes = {entry: entry.stat().st_mode for entry in (path, *path.rglob("*"))}
    for entry, mode in modes.items():
        entry.chmod(mode & ~0o222)
    try:
        yield
    finally:
        for entry, mode in modes.items():
            entry.chmod(mode)


def mount(*arguments: str) -> None:
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise OSError(done.stderr.strip())
