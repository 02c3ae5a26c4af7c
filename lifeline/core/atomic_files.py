"""Atomic file replacement: write to a temporary file, sync it, rename it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_durably(path: Path, content: str | bytes) -> None:
    """Create or replace a file atomically; after the return it survives a power failure."""
    with replacement(path) as temporary:
        if isinstance(content, str):
            temporary.write_text(content)
        else:
            temporary.write_bytes(content)


@contextmanager
def replacement(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; the file that the block writes there is synced and replaces `path`.

    If the block raises, `path` is not changed.
    """
    temporary = path.with_name(f".{path.name}.new")
    yield temporary
    _sync(temporary)
    temporary.replace(path)
    _sync(path.parent)


def sync_directory(path: Path) -> None:
    """Sync the entries of a directory to the disk."""
    _sync(path)


def sync_tree(path: Path) -> None:
    """Sync a directory and its files to the disk; it must have no subdirectories."""
    for file in path.iterdir():
        _sync(file)
    _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
