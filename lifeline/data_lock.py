"""The lock of a data directory: one process at a time changes what is in it."""

import fcntl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from lifeline.errors import DataDirError
from store.errors import StoreLockedError
from store.snapshots.files import remove_leftovers

SWAP_JOURNAL = "swap.json"
"""What a swap of partitions (swap.py) is about to do, for as long as it is not done."""


@contextmanager
def locked(data_dir: Path, *, may_finish_swap: bool = False) -> Iterator[None]:
    """Hold the data directory: two nodes in one would overwrite each other's embeddings.

    What a killed holder left half done is removed. Raises StoreLockedError, and DataDirError, also after a swap of
    partitions that was interrupted, unless it is to be finished.
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
        if (data_dir / SWAP_JOURNAL).exists() and not may_finish_swap:
            raise DataDirError(
                f"a swap of partitions in {data_dir} was interrupted: finish it with the same `lifeline replay ... "
                f"--swap` command ({SWAP_JOURNAL} there names its --into)"
            )
        remove_leftovers(data_dir)
        yield
