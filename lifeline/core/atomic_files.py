"""Files that are complete or absent, whatever crashes: written aside, synced, then renamed into place."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_durably(path: Path, content: str | bytes) -> None:
    """Create or replace a file; when this returns, it survives a power failure."""
    with replacement(path) as temporary:
        if isinstance(content, str):
            temporary.write_text(content)
        else:
            temporary.write_bytes(content)


@contextmanager
def replacement(path: Path) -> Iterator[Path]:
    """Give a path beside `path`; the file that the block writes there is synced and replaces `path`.

    Where the block raises, `path` stays as it was.
    """
    temporary = path.with_name(f".{path.name}.new")
    yield temporary
    _sync(temporary)
    temporary.replace(path)
    _sync(path.parent)


def sync_directory(path: Path) -> None:
    """Sync a directory's entries to the disk."""
    _sync(path)


def sync_tree(path: Path) -> None:
    """Sync the files of a directory without subdirectories, and its entries, to the disk."""
    for file in path.iterdir():
        _sync(file)
    _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
