"""A partition that another process writes, opened beside it to be read (RocksDB calls this a secondary instance).

It changes nothing in the partition's directory, except that the Python binding rewrites its own small file there with
the same content. What it shows changes only when `catch_up` is called.
"""

import tempfile
import time
from pathlib import Path
from typing import NamedTuple, Self

from lifeline.store.database import PartitionDatabase
from lifeline.store.errors import NotOwnerError
from lifeline.store.memory import SharedMemory
from lifeline.store.readable_partition import ReadablePartition
from lifeline.store.rocksdb import SecondaryDatabase, catch_up, open_to_follow


class Staleness(NamedTuple):
    """How far a secondary may be behind its writer."""

    applied_offset: int
    """The last offset that it shows."""
    seconds: float
    """Time since it caught up with the writer."""


class SecondaryPartition(ReadablePartition):
    """Reads a partition of another process; every method may be called from any thread."""

    def __init__(
        self,
        followed: SecondaryDatabase,
        path: Path,
        partition: int,
        memory: SharedMemory,
        own: "tempfile.TemporaryDirectory[str]",
    ) -> None:
        """Use `SecondaryPartition.open`."""
        self._followed, self._memory, self._own = followed, memory, own
        self._caught_up_at = time.monotonic()
        super().__init__(PartitionDatabase(followed.db, path, partition))

    @classmethod
    def open(cls, path: Path, *, partition: int, memory: SharedMemory) -> Self:
        """Open the partition in `path` as it is now; raises StoreError, FormatVersionError, CorruptRecordError."""
        own = tempfile.TemporaryDirectory(prefix="lifeline-follower-")
        try:
            return cls(open_to_follow(path, memory, Path(own.name)), path, partition, memory, own)
        except BaseException:
            own.cleanup()
            raise

    def catch_up(self) -> Staleness:
        """Move to what the writer has written by now; open views keep their moment.

        Raises StoreError, CorruptRecordError.
        """
        started, database = time.monotonic(), self.database
        with database.changed:
            if database.is_closed:
                raise NotOwnerError(self.partition)
            try:
                if not catch_up(self._followed, self.path):
                    self._reopen()
                database.load()
            except BaseException as error:
                # The database may mix two moments now: refuse reads until a later attempt succeeds.
                database.fail(error)
                raise
            database.recover()
            self._caught_up_at = started
        return self.staleness()

    def _reopen(self) -> None:
        # No CURRENT is empty: if opening fails, the next attempt opens again.
        self._followed = self._followed._replace(current=b"")
        followed = open_to_follow(self.path, self._memory, Path(self._own.name))
        # Open views keep the earlier database until they close.
        self.database.close_handles()
        self.database.use(followed.db)
        self._followed = followed

    def staleness(self) -> Staleness:
        """Return how far it may be behind the writer."""
        return Staleness(self.applied_offset, time.monotonic() - self._caught_up_at)

    def close(self) -> None:
        """Close; waits for the views in use. Idempotent."""
        super().close()
        self._own.cleanup()
