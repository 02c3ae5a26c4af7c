"""A partition that another process writes, opened for reading (RocksDB calls this a secondary instance).

It writes nothing to the partition's directory, which may be read-only: its own files are in a temporary directory. It
shows newer data only after a call of `catch_up`.
"""

import tempfile
import time
from pathlib import Path
from typing import NamedTuple, Self

from lifeline.core.scratch import temporary_root
from lifeline.store.database import PartitionDatabase
from lifeline.store.errors import NotOwnerError, StoreError
from lifeline.store.memory import SharedMemory
from lifeline.store.readable_partition import ReadablePartition
from lifeline.store.rocksdb import SecondaryDatabase, catch_up, check_limit, open_secondary


class Staleness(NamedTuple):
    """How far a secondary may be behind the writer."""

    applied_offset: int
    """The last offset that the secondary has applied."""
    seconds: float
    """Seconds since the last catch-up."""


class SecondaryPartition(ReadablePartition):
    """Reads a partition of another process. Every method may be called from any thread."""

    def __init__(
        self,
        secondary: SecondaryDatabase,
        path: Path,
        partition: int,
        memory: SharedMemory,
        own: "tempfile.TemporaryDirectory[str]",
    ) -> None:
        """Use `SecondaryPartition.open`."""
        self._secondary, self._memory, self._own = secondary, memory, own
        self._caught_up_at = time.monotonic()
        super().__init__(PartitionDatabase(secondary.db, path, partition))

    @classmethod
    def open(cls, path: Path, *, partition: int, memory: SharedMemory) -> Self:
        """Open the partition in `path`; raises StoreError, FormatVersionError, CorruptRecordError, ScratchError."""
        try:
            # What ends the opening, such as too many open files, may end the cleanup too: the first error counts.
            own = tempfile.TemporaryDirectory(
                prefix="lifeline-follower-", dir=temporary_root(), ignore_cleanup_errors=True
            )
        except OSError as error:
            check_limit(error, path)
            raise StoreError(
                f"{path} cannot be read without a small temporary directory ({error}): set TMPDIR to a directory that "
                "this user may write"
            ) from error
        try:
            return cls(open_secondary(path, memory, Path(own.name)), path, partition, memory, own)
        except BaseException:
            own.cleanup()
            raise

    def catch_up(self) -> Staleness:
        """Show what the writer has written by now; open views do not change.

        Raises StoreError, CorruptRecordError.
        """
        started, database = time.monotonic(), self.database
        with database.changed:
            if database.is_closed:
                raise NotOwnerError(self.partition)
            try:
                if not catch_up(self._secondary, self.path):
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
        # CURRENT is never empty, so if opening fails, the next catch_up tries to open again.
        self._secondary = self._secondary._replace(current=b"")
        secondary = open_secondary(self.path, self._memory, Path(self._own.name))
        # Open views use the old database until they are closed.
        self.database.close_handles()
        self.database.use(secondary.db)
        self._secondary = secondary

    def staleness(self) -> Staleness:
        """Return how far this may be behind the writer."""
        return Staleness(self.applied_offset, time.monotonic() - self._caught_up_at)

    def close(self) -> None:
        """Close; waits for open views. Idempotent."""
        super().close()
        self._own.cleanup()
