"""The lock of a data directory: one process at a time may change it, and other users cannot read it."""

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import structlog

from lifeline.core.errors import DataDirError
from lifeline.store.errors import StoreLockedError
from lifeline.store.snapshots.files import remove_leftovers

SWAP_JOURNAL = "swap.json"
"""The journal of an unfinished swap of partitions (lifeline/ops/swap.py)."""
GROUP_AND_OTHERS = stat.S_IRWXG | stat.S_IRWXO
"""The permission bits of a file's group and of all other users."""

_log = structlog.get_logger(__name__)


@contextmanager
def private_files() -> Iterator[None]:
    """Give new files of this process and its children, RocksDB's included, no permissions for other users."""
    before = os.umask(GROUP_AND_OTHERS)
    try:
        yield
    finally:
        os.umask(before)


@contextmanager
def data_dir_lock(data_dir: Path, *, may_finish_swap: bool = False) -> Iterator[None]:
    """Lock the data directory: two nodes in one directory would overwrite each other's embeddings.

    The directory, and every file that the process creates while it holds the lock, is readable by this user only,
    because keys contain user ids. Incomplete snapshots and restores of a killed process are removed. Raises
    StoreLockedError if another process holds the lock, and DataDirError if the directory cannot be used, or has an
    interrupted swap of partitions and not `may_finish_swap`.
    """
    with ExitStack() as stack:
        stack.enter_context(private_files())
        try:
            data_dir.mkdir(parents=True, exist_ok=True)
            _make_private(data_dir)
            lock = stack.enter_context((data_dir / "node.lock").open("w"))
            if not os.access(data_dir, os.W_OK | os.X_OK):
                # The file of an earlier node may still be open to this user.
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        except OSError as error:
            raise _unusable(data_dir, error) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StoreLockedError(
                f"{data_dir} is in use by a running node: stop it, or name another directory with --data-dir"
            ) from error
        if (data_dir / SWAP_JOURNAL).exists() and not may_finish_swap:
            raise DataDirError(
                f"a swap of partitions in {data_dir} was interrupted: finish it with the same `lifeline replay ... "
                f"--swap` command ({SWAP_JOURNAL} there names its --into)"
            )
        remove_leftovers(data_dir)
        yield


def _unusable(data_dir: Path, error: OSError) -> DataDirError:
    if error.errno == errno.EROFS:
        return DataDirError(
            f"{data_dir} is mounted read-only, and a node or command that changes it has to write there: mount it for "
            "writing, or name another directory with --data-dir"
        )
    return DataDirError(
        f"{data_dir} cannot be used ({error.strerror}): name another directory with --data-dir, or give this user "
        "write permission"
    )


def _make_private(data_dir: Path) -> None:
    """Remove other users' permissions from an existing directory, which also protects the files in it."""
    mode = stat.S_IMODE(data_dir.stat().st_mode)
    if not mode & GROUP_AND_OTHERS:
        return
    try:
        data_dir.chmod(mode & ~GROUP_AND_OTHERS)
    except PermissionError:
        # A volume may be owned by another user than this process, as with fsGroup in Kubernetes.
        _log.warning(
            "the data directory is open to other users, and this user does not own it: new files in it are private; "
            "change the mode of the directory itself, or make this user its owner",
            data_dir=str(data_dir),
            mode=f"{mode:04o}",
        )
    else:
        _log.info(
            "removed other users' permissions from the data directory",
            data_dir=str(data_dir),
            mode_before=f"{mode:04o}",
        )
