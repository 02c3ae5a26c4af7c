"""The lock of a data directory: one process at a time changes what is in it, and no other user reads it."""

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
"""What a swap of partitions (swap.py) is about to do, for as long as it is not done."""
OTHERS = stat.S_IRWXG | stat.S_IRWXO
"""What the group and everybody else may do with a file."""

_log = structlog.get_logger(__name__)


@contextmanager
def private_files() -> Iterator[None]:
    """Have every file that this process and its children make, RocksDB's too, be its own user's alone."""
    before = os.umask(OTHERS)
    try:
        yield
    finally:
        os.umask(before)


@contextmanager
def locked(data_dir: Path, *, may_finish_swap: bool = False) -> Iterator[None]:
    """Hold the data directory: two nodes in one would overwrite each other's embeddings.

    It is this user's alone, for keys name users, and so is every file that the process makes meanwhile, here or there.
    What a killed holder left half done is removed. Raises StoreLockedError, and DataDirError, also after a swap of
    partitions that was interrupted, unless it is to be finished.
    """
    with ExitStack() as stack:
        stack.enter_context(private_files())
        try:
            data_dir.mkdir(parents=True, exist_ok=True)
            _close_to_others(data_dir)
            lock = stack.enter_context((data_dir / "node.lock").open("w"))
        except OSError as error:
            raise DataDirError(
                f"{data_dir} cannot be used ({error.strerror}): name another directory with --data-dir, or give this "
                "user leave to write there"
            ) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StoreLockedError(
                f"{data_dir} belongs to a node that runs: stop it, or name another directory with --data-dir"
            ) from error
        if (data_dir / SWAP_JOURNAL).exists() and not may_finish_swap:
            raise DataDirError(
                f"a swap of partitions in {data_dir} was interrupted: finish it with the same `lifeline replay ... "
                f"--swap` command ({SWAP_JOURNAL} there names its --into)"
            )
        remove_leftovers(data_dir)
        yield


def _close_to_others(data_dir: Path) -> None:
    """Close a directory that was made before, or by somebody else: what lies in it is shut off with it."""
    mode = stat.S_IMODE(data_dir.stat().st_mode)
    if not mode & OTHERS:
        return
    try:
        data_dir.chmod(mode & ~OTHERS)
    except PermissionError:
        # A volume's owner is not always the process that it is given to, as with Kubernetes' fsGroup.
        _log.warning(
            "the data directory is open to other users, and belongs to another one: what is made in it from now on "
            "is this user's alone; close the directory itself, or give it to this user",
            data_dir=str(data_dir),
            mode=f"{mode:04o}",
        )
    else:
        _log.info("closed the data directory to other users", data_dir=str(data_dir), mode_before=f"{mode:04o}")
