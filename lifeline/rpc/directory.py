"""The partitions that this process holds, found by user."""

import threading
from collections.abc import Callable, Iterator

from lifeline.rpc.waits import Waits
from lifeline.store.embeddings import Embeddings
from lifeline.store.errors import CatchingUpError, NotOwnerError, PartitionRefusingError
from lifeline.store.readable_partition import ReadablePartition
from lifeline.store.reader import SequenceReader


class PartitionDirectory:
    """Partition number to the reader of its open store. Every method may be called from any thread."""

    def __init__(
        self, partition_of: Callable[[bytes], int], embeddings: Embeddings, waits: Waits | None = None
    ) -> None:
        """`partition_of` maps a record's key (a user id in UTF-8) to its partition."""
        self.waits = waits or Waits()
        """The places of calls that wait for an offset of one of the partitions."""
        self._partition_of, self._embeddings = partition_of, embeddings
        self._readers: dict[int, SequenceReader] = {}
        self._refusing: dict[int, str] = {}
        self._catching_up: set[int] = set()
        self._lock = threading.Lock()

    def add(
        self, store: ReadablePartition, lag: Callable[[], int] = lambda: 0, blocked: Callable[[], str] = str
    ) -> None:
        """Serve the store's partition from now on; `lag` and `blocked` are as in `SequenceReader`."""
        with self._lock:
            self._refusing.pop(store.partition, None)
            self._catching_up.discard(store.partition)
            self._readers = {**self._readers, store.partition: SequenceReader(store, self._embeddings, lag, blocked)}

    def announce(self, partition: int) -> None:
        """Add a partition that is not served yet, because it is still catching up with its log."""
        with self._lock:
            self._refusing.pop(partition, None)
            self._catching_up.add(partition)

    def remove(self, partition: int, why: str = "") -> None:
        """Stop serving a partition; reads already under way finish.

        With `why` this process still holds the partition and refuses its reads: no other node has it.
        """
        with self._lock:
            self._readers = {number: reader for number, reader in self._readers.items() if number != partition}
            self._refusing.pop(partition, None)
            self._catching_up.discard(partition)
            if why:
                self._refusing[partition] = why

    def partition_of(self, user_id: str) -> int:
        """Return the user's partition."""
        return self._partition_of(user_id.encode())

    def has(self, partition: int) -> bool:
        """Return whether this process holds a partition: served, catching up or refusing."""
        return partition in self._readers or partition in self._catching_up or partition in self._refusing

    def for_user(self, user_id: str) -> SequenceReader:
        """Return the reader of the user's partition; raises NotOwnerError, CatchingUpError, PartitionRefusingError."""
        partition = self.partition_of(user_id)
        reader = self._readers.get(partition)
        if reader is None:
            why = self._refusing.get(partition)
            if why is not None:
                raise PartitionRefusingError(partition, why)
            if partition in self._catching_up:
                raise CatchingUpError(partition)
            raise NotOwnerError(partition)
        return reader

    def __iter__(self) -> Iterator[ReadablePartition]:
        """Give the open stores, by partition."""
        return iter(reader.store for _, reader in sorted(self._readers.items()))

    def __len__(self) -> int:
        return len(self._readers)
