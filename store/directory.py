"""The partitions that this process holds, found by user."""

import threading
from collections.abc import Callable, Iterator

from store.embeddings import EmbeddingTable
from store.errors import NotOwnerError
from store.partition import PartitionStore
from store.reader import SequenceReader


class PartitionDirectory:
    """Partition number to the reader of its open store. Every method may be called from any thread."""

    def __init__(self, partition_of: Callable[[bytes], int], embeddings: EmbeddingTable) -> None:
        """`partition_of` maps a record's key (a user id in UTF-8) to its partition."""
        self._partition_of, self._embeddings = partition_of, embeddings
        self._readers: dict[int, SequenceReader] = {}
        self._lock = threading.Lock()

    def add(self, store: PartitionStore) -> None:
        """Serve the store's partition from now on."""
        with self._lock:
            self._readers = {**self._readers, store.partition: SequenceReader(store, self._embeddings)}

    def remove(self, partition: int) -> None:
        """Stop serving a partition; reads already under way finish."""
        with self._lock:
            self._readers = {number: reader for number, reader in self._readers.items() if number != partition}

    def for_user(self, user_id: str) -> SequenceReader:
        """Return the reader of the user's partition; raises NotOwnerError when this process does not hold it."""
        partition = self._partition_of(user_id.encode())
        reader = self._readers.get(partition)
        if reader is None:
            raise NotOwnerError(partition)
        return reader

    def __iter__(self) -> Iterator[PartitionStore]:
        """Give the open stores, by partition."""
        return iter(reader.store for _, reader in sorted(self._readers.items()))

    def __len__(self) -> int:
        return len(self._readers)
