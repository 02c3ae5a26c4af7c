"""The client's cache of partition ownership."""

import threading

from lifeline.core.partitioner import partition_of


class OwnershipCache:
    """The address that last answered for each partition. Safe in threads.

    The cache is empty until a node has reported how many partitions there are: before that, the client cannot tell
    which partition a user belongs to.
    """

    def __init__(self) -> None:
        self._partitions = 0
        self._owners: dict[int, str] = {}
        self._lock = threading.Lock()

    def owner_of(self, user_id: str) -> str | None:
        """Return the address of the user's partition, None where the cache has none."""
        with self._lock:
            if not self._partitions:
                return None
            return self._owners.get(partition_of(user_id.encode(), self._partitions)) or None

    def store(self, user_id: str, address: str, partitions: str) -> None:
        """Set the owner of the user's partition; an empty address removes it.

        `partitions` is how many partitions there are, in decimal digits; empty where the node did not say.
        """
        with self._lock:
            if partitions.isdecimal() and int(partitions) > 0:
                self._partitions = int(partitions)
            if self._partitions:
                self._owners[partition_of(user_id.encode(), self._partitions)] = address
