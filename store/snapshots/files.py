"""A snapshot's files on the local disk: where they are put together, and what their contents are."""

import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lifeline.store.errors import SnapshotError
from lifeline.store.snapshots.manifest import SnapshotFile

SNAPSHOT, RESTORING = "snapshot", "restoring"


@contextmanager
def aside(path: Path, what: str) -> Iterator[Path]:
    """Give a path that does not exist yet, beside `path` on the same disk; what is there afterwards is removed.

    A crash leaves it behind, and `remove_leftovers` removes it. Raises SnapshotError for what the disk refuses.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        holder = tempfile.mkdtemp(prefix=f"{path.name}.{what}-", dir=path.parent)
        try:
            yield Path(holder) / path.name
        finally:
            shutil.rmtree(holder)
    except OSError as error:
        raise SnapshotError(
            f"{path} cannot be worked on ({error}): check the rights and the space of {path.parent}"
        ) from error


def remove_leftovers(data_dir: Path) -> list[str]:
    """Remove what snapshots and restores that were killed left in a data directory; returns the names.

    Only for those who hold the directory: it would pull the files from under one that is at work. What a crashed
    snapshot left would keep the bytes of users that are erased later. Raises SnapshotError.
    """
    removed = []
    for what in (SNAPSHOT, RESTORING):
        for found in data_dir.glob(f"partition-*.{what}-*"):
            try:
                shutil.rmtree(found)
            except OSError as error:
                raise SnapshotError(f"{found} is left over and cannot be removed ({error}): remove it") from error
            removed.append(found.name)
    return sorted(removed)


def check_free(path: Path) -> None:
    """Raise SnapshotError unless a restore may put a directory at `path`."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise SnapshotError(
            f"{path} is not empty, and a restore overwrites nothing: set it aside, or name another --data-dir"
        )


def files_of(directory: Path) -> tuple[SnapshotFile, ...]:
    """Return the files of a directory that nobody writes to, by name."""
    return tuple(
        SnapshotFile(name=path.name, bytes=path.stat().st_size, sha256=sha256_of(path))
        for path in sorted(directory.iterdir())
    )


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
