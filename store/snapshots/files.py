"""The files of a snapshot on the local disk: staging directories and checksums."""

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
def staging_path(path: Path, what: str) -> Iterator[Path]:
    """Yield a path that does not exist yet, beside `path` on the same disk. Its content is removed afterwards.

    After a crash `remove_leftovers` removes it. Raises SnapshotError if the disk reports an error.
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
            f"{path} cannot be written ({error}): check the permissions and the free space of {path.parent}"
        ) from error


def remove_leftovers(data_dir: Path) -> list[str]:
    """Remove the staging directories of killed snapshots and restores from a data directory; returns their names.

    The caller must hold the lock of the directory, so that no snapshot or restore is running. A directory that stayed
    would keep the bytes of users who are erased later. Raises SnapshotError.
    """
    removed = []
    for what in (SNAPSHOT, RESTORING):
        for directory in data_dir.glob(f"partition-*.{what}-*"):
            try:
                shutil.rmtree(directory)
            except OSError as error:
                raise SnapshotError(f"{directory} is left over and cannot be removed ({error}): remove it") from error
            removed.append(directory.name)
    return sorted(removed)


def check_restore_target(path: Path) -> None:
    """Raise SnapshotError unless `path` is empty or does not exist."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise SnapshotError(
            f"{path} is not empty, and a restore overwrites nothing: set it aside, or name another --data-dir"
        )


def files_of(directory: Path) -> tuple[SnapshotFile, ...]:
    """Return the files of a directory, sorted by name. Nothing may write to it meanwhile."""
    return tuple(
        SnapshotFile(name=path.name, bytes=path.stat().st_size, sha256=sha256_of(path))
        for path in sorted(directory.iterdir())
    )


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
