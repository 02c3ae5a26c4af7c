"""The partition store: the RocksDB database of one partition of the actions topic, opened for writing.

`apply` writes events, new items, heads, applied offset and fingerprint in one WriteBatch, so a crash leaves all of a
micro-batch or nothing of it. If the write fails, memory too is as before; the open store goes on once RocksDB writes
again (disk_space.py). With durability `process` the write-ahead log is not synced: a killed process loses no
data, and after a power failure Kafka delivers the lost records again, from the applied offset on. With durability
`power` a thread syncs the log (durability.py), and `durable_offset` is the last synced offset.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from operator import add
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from rocksdict import Checkpoint, WriteBatch

from lifeline.core.actions import ActionBatch
from lifeline.store import fingerprint as fp
from lifeline.store import keys
from lifeline.store.batch_editor import BatchEditor, EventSum, SequenceRules
from lifeline.store.database import PartitionDatabase
from lifeline.store.durability import GroupCommit
from lifeline.store.erasure import Scrubber
from lifeline.store.errors import CorruptRecordError, FormatVersionError, StoreError
from lifeline.store.expiry import drop_expired
from lifeline.store.memory import SharedMemory
from lifeline.store.readable_partition import ReadablePartition
from lifeline.store.retention import RetentionPolicy
from lifeline.store.rocksdb import compact_range, open_primary
from lifeline.store.settings import StoreSettings
from lifeline.store.state import State


class ApplyResult(NamedTuple):
    """The effect of one batch, in events unless noted."""

    inserted: int = 0
    """Events that were new to their sequence."""
    repeated: int = 0
    """Events that the sequence had already, or that are older than all it keeps."""
    trimmed: int = 0
    """Events that the cap removed."""
    expired: int = 0
    """Events that exceeded their maximum age."""
    sealed_chunks: int = 0
    """Chunks sealed."""
    late_rewrites: int = 0
    """Chunks rewritten for late events."""

    def plus(self, other: "ApplyResult") -> "ApplyResult":
        """Return the sum of two results."""
        return ApplyResult(*map(add, self, other))


class PartitionStore(ReadablePartition):
    """One writer (`apply`, `erase`) beside any number of readers; every method may be called from any thread."""

    def __init__(self, database: PartitionDatabase, settings: StoreSettings, memory: SharedMemory) -> None:
        """Use `PartitionStore.open`."""
        super().__init__(database)
        policy = RetentionPolicy.of(settings)
        with database.closed_on_error():
            if database.policy is None:
                database.policy = policy
                database.meta.put(keys.POLICY_KEY, policy.pack())
            database.policy.check(policy)
        self._rules = SequenceRules(settings)
        self.memory = memory
        self._heads = memory.heads.open_share()
        self._write_lock = threading.Lock()
        self._scrubber = Scrubber(database.families, self.path, self.partition, database.wait_for_views)
        self._commits = (
            GroupCommit(self._sync, settings.sync_every_ms / 1_000, f"sync-{self.partition}")
            if settings.durability == "power"
            else None
        )
        self._durable_offset = self.applied_offset
        # Count them even above the limit: an existing partition must stay readable.
        memory.items.add(self.items)
        self.written_bytes = 0
        """Bytes of all batches written since the store was opened."""
        self.totals = ApplyResult()
        """The sum of all results since the store was opened."""
        self.erased_events = 0
        """Events that erasures removed since the store was opened."""

    @classmethod
    def open(cls, path: Path, *, partition: int, settings: StoreSettings, memory: SharedMemory) -> Self:
        """Open or create the store in `path`.

        Raises StoreLockedError when another process has it, RetentionPolicyError when it was built with other caps or
        ages, FormatVersionError, CorruptRecordError, StoreError.
        """
        return cls(PartitionDatabase(open_primary(path, memory), path, partition), settings, memory)

    @property
    def durable_offset(self) -> int:
        """The last offset that survives a crash of the kind that the durability setting names."""
        return self.applied_offset if self._commits is None else self._durable_offset

    # Writing

    def apply(self, batch: ActionBatch, *, offset: int) -> ApplyResult:
        """Apply a micro-batch in one atomic write; `offset` is the last offset of the log that it covers.

        Raises ValueError if `offset` is not above the applied offset; ItemLimitError, with nothing changed, if the
        batch's new items exceed the limit of the process; DiskFullError, with nothing changed, if the disk has no room;
        StoreFailedError after a write that failed in another way; CorruptRecordError.
        """
        with self._writing(offset, batch.item_id) as write:
            editor = BatchEditor(self.database, self._heads, self._rules)
            result, state = self._edit(editor, batch, write, offset)
            self._commit(write, state)
            editor.cache_heads()
            self.totals = self.totals.plus(result)
        return result

    def _edit(
        self, editor: BatchEditor, batch: ActionBatch, write: WriteBatch, offset: int
    ) -> tuple[ApplyResult, State]:
        state, items = self.state, self.database.items
        if not len(batch):
            return ApplyResult(), state._replace(applied_offset=offset)
        watermark = max(state.watermark_ms, batch.watermark_ms)
        arrived = len(batch)
        if horizons := self._rules.ages.horizons(watermark):
            batch = drop_expired(batch, horizons)
        expired = editor.expire(state.watermark_ms, watermark) if horizons else 0
        known = len(items)
        added = editor.insert(batch) if len(batch) else EventSum()
        self.database.put_new_items(write, known)
        outcome = editor.finish()
        editor.put(write)
        removed = outcome.trimmed_events
        return (
            ApplyResult(
                added.events,
                arrived - added.events,
                removed - expired,
                expired,
                outcome.sealed_chunks,
                outcome.late_rewrites,
            ),
            State(
                offset,
                watermark,
                state.events + added.events - removed,
                fp.add(state.fingerprint, added.hashes - outcome.trimmed_hashes),
            ),
        )

    def erase(self, user_id: bytes, *, offset: int) -> int:
        """Remove every event of a user; returns how many there were. Raises as `apply` does.

        A thread then scrubs the bytes from the files, if need be after a restart; `wait_scrubbed` waits for it.
        """
        with self._writing(offset) as write:
            removed = BatchEditor(self.database, self._heads, self._rules).erase(user_id, write)
            write.put(keys.erasure_key(user_id, offset), b"", self.database.handles["meta"])
            state = self.state
            self._commit(
                write,
                State(
                    offset,
                    state.watermark_ms,
                    state.events - removed.events,
                    fp.add(state.fingerprint, -removed.hashes),
                ),
            )
            self.erased_events += removed.events
        self._scrubber.request()
        return removed.events

    @property
    def scrubbing(self) -> bool:
        """Whether bytes of erased users may still be in the files."""
        return self._scrubber.busy

    def wait_scrubbed(self, timeout_s: float) -> bool:
        """Wait up to `timeout_s` seconds for the scrub of all users erased so far; returns whether it is done."""
        return self._scrubber.wait(timeout_s)

    @contextmanager
    def _writing(self, offset: int, item_id: NDArray[np.uint64] | None = None) -> Iterator[WriteBatch]:
        """Give a new batch to fill and commit. If the block raises before the commit, memory is as it was before."""
        database = self.database
        with self._write_lock:
            database.check_usable()
            if offset <= self.applied_offset:
                raise ValueError(
                    f"partition {self.partition} has applied offset {self.applied_offset}: a batch up to {offset} "
                    "is a repeat and must be skipped"
                )
            if item_id is not None:
                self.memory.items.check(self.partition, database.items, item_id)
            known = len(database.items)
            try:
                yield WriteBatch(raw_mode=True)
            except BaseException as error:
                if self.applied_offset < offset:
                    database.forget_items(known)
                if self.applied_offset == offset or isinstance(error, CorruptRecordError | FormatVersionError):
                    # Memory may be behind the disk now, or the files are damaged.
                    database.fail(error)
                if isinstance(error, StoreError) or not isinstance(error, Exception):
                    raise
                raise StoreError(
                    f"a batch of partition {self.partition} cannot be applied ({str(error) or type(error).__name__}): "
                    "check the disk, then restart the node"
                ) from error
            finally:
                self.memory.items.add(len(database.items) - known)

    def _commit(self, write: WriteBatch, state: State) -> None:
        write.put(keys.STATE_KEY, state.pack(), self.database.handles["meta"])
        size = write.size_in_bytes()
        self.database.commit(write, state)
        self.written_bytes += size
        if self._commits is not None:
            self._commits.request()

    # Life

    def compact(self) -> None:
        """Flush and compact everything, so that no obsolete data stays on disk."""
        for family in self.database.families.values():
            family.flush()
            compact_range(family)

    def checkpoint(self, into: Path) -> State:
        """Copy the store into the new directory `into`, by hard links; returns the state of the copy."""
        for family in self.database.families.values():
            family.flush()
        with self._write_lock:
            self.database.check_usable()
            Checkpoint(self.database.db).create_checkpoint(str(into))
            return self.state

    def close(self) -> None:
        """Close; waits for the current write and for open views. No flush is needed: the log has the applied data."""
        with self._write_lock:
            if self.database.is_closed:
                return
            self._scrubber.close()
            if self._commits is not None:
                self._commits.close()
            super().close()
            self._heads.close()
            self.memory.items.add(-self.items)

    def _sync(self) -> None:
        """Sync the write-ahead log to disk. Releases the GIL."""
        if self.database.has_failed:
            # After a failed fsync, a later success proves nothing about earlier writes.
            return
        offset = self.applied_offset
        try:
            self.database.db.flush_wal(True)
        except Exception as error:  # noqa: BLE001 - rocksdict raises bare Exception
            self.database.fail(error)
        else:
            self._durable_offset = offset
