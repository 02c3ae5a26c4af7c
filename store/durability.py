"""Group commit: one thread syncs the write-ahead log of a partition to disk, for many batches at once."""

import threading
from collections.abc import Callable


class GroupCommit:
    """Calls `sync` at most once in `every_s` seconds, while requests are pending."""

    def __init__(self, sync: Callable[[], None], every_s: float, name: str) -> None:
        self._sync, self._every_s = sync, every_s
        self._requested, self._closing = threading.Event(), threading.Event()
        # The writer itself does not sync: it would hold the GIL during the fsync.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def request(self) -> None:
        """Request a sync of everything that has been written so far."""
        self._requested.set()

    def close(self) -> None:
        """Serve the last request, and stop."""
        self._closing.set()
        self._requested.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._closing.is_set():
            self._requested.wait()
            self._requested.clear()
            self._sync()
            self._closing.wait(self._every_s)
        if self._requested.is_set():
            self._sync()
