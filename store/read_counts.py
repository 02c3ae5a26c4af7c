"""How many reads of a user found something, and how many nothing."""

import threading


class ReadCounts:
    """Counts of one open partition. Every method may be called from any thread."""

    def __init__(self) -> None:
        self.found = 0
        """Reads of users that have events of the kinds asked for, whether or not any passed the filters."""
        self.empty = 0
        """Reads of users that have none."""
        self._lock = threading.Lock()

    def add(self, found: int, empty: int) -> None:
        """Count the reads of one view."""
        # Adding to an attribute is a read and a write: without the lock two threads would count once.
        with self._lock:
            self.found += found
            self.empty += empty
