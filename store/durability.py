"""Group commit: one thread brings the write-ahead log of a partition to the disk, for many batches at once."""

import threading
from collections.abc import Callable


class GroupCommit:
    """Calls `sync` at most every `every_s` seconds while there is something to bring to the disk."""

    def __init__(self, sync: Callable[[], None], every_s: float, name: str) -> None:
        self._sync, self._every_s = sync, every_s
        self._wanted, self._closing = threading.Event(), threading.Event()
        # A writer that syncs its own batch would hold the interpreter's lock for the length of an fsync.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def request(self) -> None:
        """Ask for what has been written so far to be synced soon."""
        self._wanted.set()

    def close(self) -> None:
        """Sync what is left, and stop."""
        self._closing.set()
        self._wanted.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._closing.is_set():
            self._wanted.wait()
            self._wanted.clear()
            self._sync()
            self._closing.wait(self._every_s)
        if self._wanted.is_set():
            self._sync()
