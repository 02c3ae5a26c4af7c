"""The read interface of an open partition, whether this process or another one writes it."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from lifeline.store import keys
from lifeline.store.database import PartitionDatabase, View
from lifeline.store.read_counts import ReadCounts
from lifeline.store.retention import RetentionPolicy
from lifeline.store.state import State
from lifeline.store.statistics import PartitionStatistics


class ReadablePartition:
    """An open partition for any number of readers. Every method may be called from any thread."""

    def __init__(self, database: PartitionDatabase) -> None:
        """Read an open database; `close` closes it."""
        self.database = database
        """The database, for subclasses that write or inspect the partition."""
        self.reads = ReadCounts()

    @property
    def path(self) -> Path:
        """The partition's directory."""
        return self.database.path

    @property
    def partition(self) -> int:
        """The partition's number in the topic."""
        return self.database.partition

    @property
    def instance(self) -> int:
        """A number that is unique among all partitions that this process opens."""
        return self.database.instance

    @property
    def policy(self) -> RetentionPolicy | None:
        """The retention policy that the partition was built with; None before the first write."""
        return self.database.policy

    @property
    def applied_offset(self) -> int:
        """The last offset of the log that is part of the state; -1 before the first."""
        return self.database.state.applied_offset

    @property
    def watermark_ms(self) -> int:
        """The newest event time applied, milliseconds since 1970; 0 without events."""
        return self.database.state.watermark_ms

    @property
    def fingerprint(self) -> int:
        """The sum modulo 2^128 of the retained events' hashes."""
        return self.database.state.fingerprint

    @property
    def state(self) -> State:
        """Applied offset, watermark, events and fingerprint of one moment."""
        return self.database.state

    @property
    def items(self) -> int:
        """Items that have an ordinal in this partition."""
        return len(self.database.items)

    def wait_for(self, offset: int, timeout_s: float) -> None:
        """Return when `offset` is applied; raises NotYetAppliedError after `timeout_s` seconds."""
        self.database.wait_for(offset, timeout_s)

    def view(self) -> AbstractContextManager[View]:
        """Open a consistent view: rows, chunks and applied offset of the same moment.

        `close` waits for open views.
        """
        return self.database.view()

    def users(self) -> Iterator[str]:
        """Yield the ids of the users that have events, in the order of their keys, from one snapshot."""
        last = b""
        with self.view() as view:
            rows = view.rows
            rows.seek_to_first()
            while rows.valid():
                key = rows.key()
                if keys.is_head(key) and (user := keys.user_of(key)) != last:
                    last = user
                    yield user.decode()
                rows.next()

    def statistics(self) -> PartitionStatistics:
        """Return RocksDB's current numbers."""
        return self.database.statistics()

    def close(self) -> None:
        """Close; waits for open views. Idempotent."""
        self.database.close()
