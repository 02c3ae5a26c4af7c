"""A follower: a partition that another process writes, opened beside it and read as it is, or as it was lately.

RocksDB calls it a secondary instance. It changes nothing in the partition's directory (the Python binding writes its
own small file there again, as it was); what it sees moves when `catch_up` is called.
"""

import tempfile
import time
from pathlib import Path
from typing import NamedTuple, Self

from lifeline.store.errors import NotOwnerError
from lifeline.store.memory import SharedMemory
from lifeline.store.readable_partition import ReadablePartition
from lifeline.store.rocksdb import Followed, catch_up, open_to_follow


class Staleness(NamedTuple):
    """How old what a follower shows may be."""

    applied_offset: int
    """The last offset that it shows."""
    seconds: float
    """Time since it caught up with the writer."""


class SecondaryPartition(ReadablePartition):
    """Reads a partition of another process; every method may be called from any thread."""

    def __init__(
        self,
        followed: Followed,
        path: Path,
        partition: int,
        memory: SharedMemory,
        own: "tempfile.TemporaryDirectory[str]",
    ) -> None:
        """Use `SecondaryPartition.open`."""
        self._followed, self._memory, self._own = followed, memory, own
        self._caught_up_at = time.monotonic()
        super().__init__(followed.db, path, partition)

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
        """Move to what the writer has written by now; views that are open stay where they are.

        Raises StoreError, CorruptRecordError.
        """
        started = time.monotonic()
        with self._changed:
            if self._closed:
                raise NotOwnerError(self.partition)
            try:
                if not catch_up(self._followed, self.path):
                    self._open_anew()
                self._load()
            except BaseException as error:
                # What it shows now is of no one moment: nothing is read until a later one succeeds.
                self._failed = error
                raise
            finally:
                self._changed.notify_all()
            self._failed = None
            self._caught_up_at = started
        return self.staleness()

    def _open_anew(self) -> None:
        self._followed = self._followed._replace(current=b"")
        followed = open_to_follow(self.path, self._memory, Path(self._own.name))
        # Views that are open keep the earlier one until they close.
        self._let_go()
        self._use(followed.db)
        self._followed = followed

    def staleness(self) -> Staleness:
        """Say how old what it shows may be."""
        return Staleness(self.applied_offset, time.monotonic() - self._caught_up_at)

    def close(self) -> None:
        """Close; waits for views under way."""
        super().close()
        self._own.cleanup()
