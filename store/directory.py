"""The partitions that this process holds, found by user."""

import threading
from collections.abc import Callable, Iterator

from store.errors import NotOwnerError
from store.partition import PartitionStore


class PartitionDirectory:
    """Partition number to open store. Every method may be called from any thread."""

    def __init__(self, partition_of: Callable[[bytes], int]) -> None:
        """`partition_of` maps a record's key (a user id in UTF-8) to its partition."""
        self._partition_of = partition_of
        self._stores: dict[int, PartitionStore] = {}
        self._lock = threading.Lock()

    def add(self, store: PartitionStore) -> None:
        """Serve the store's partition from now on."""
        with self._lock:
            self._stores = {**self._stores, store.partition: store}

    def remove(self, partition: int) -> None:
        """Stop serving a partition; reads already under way finish."""
        with self._lock:
            self._stores = {number: store for number, store in self._stores.items() if number != partition}

    def for_user(self, user_id: str) -> PartitionStore:
        """Return the store that holds the user; raises NotOwnerError when this process does not."""
        partition = self._partition_of(user_id.encode())
        store = self._stores.get(partition)
        if store is None:
            raise NotOwnerError(partition)
        return store

    def __iter__(self) -> Iterator[PartitionStore]:
        return iter(sorted(self._stores.values(), key=lambda store: store.partition))

    def __len__(self) -> int:
        return len(self._stores)
