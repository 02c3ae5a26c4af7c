"""The lock of a data directory: one process at a time changes what is in it."""

import fcntl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from lifeline.errors import DataDirError
from store.errors import StoreLockedError
from store.snapshots.files import remove_leftovers


@contextmanager
def locked(data_dir: Path) -> Iterator[None]:
    """Hold the data directory: two nodes in one would overwrite each other's embeddings.

    What a killed holder left half done is removed. Raises DataDirError, StoreLockedError.
    """
    with ExitStack() as stack:
        try:
            data_dir.mkdir(parents=True, exist_ok=True)
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
        remove_leftovers(data_dir)
        yield
