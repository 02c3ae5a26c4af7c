"""Counts of the reads that found events of a user, and of those that did not."""

import threading


class ReadCounts:
    """Counts of one open partition. Every method may be called from any thread."""

    def __init__(self) -> None:
        self.found = 0
        """Reads of users that have events of the requested kinds, whether or not any matched the filters."""
        self.empty = 0
        """Reads of users that have no such events."""
        self._lock = threading.Lock()

    def add(self, found: int, empty: int) -> None:
        """Count the reads of one view."""
        # An increment is not atomic: without the lock, two threads could count once.
        with self._lock:
            self.found += found
            self.empty += empty
