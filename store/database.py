"""An open partition database, which the writer, secondaries and readers share.

It has:

1. the column families, and their handles for write batches;
2. the loaded retention policy, state and item ids;
3. one lock, so that views, commits and waits see a consistent state;
4. the life cycle: open, failed, closed. Closing waits for open views.

keys.py defines the keys; head.py, segment.py, chunk.py, retention.py and state.py define the records.
"""

import itertools
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rocksdict import Rdict, RdictIter, WriteBatch

from lifeline.core.sequence import AsOf
from lifeline.store import keys
from lifeline.store.disk_space import DiskSpace
from lifeline.store.errors import (
    CorruptRecordError,
    DiskFullError,
    FormatVersionError,
    NotOwnerError,
    NotYetAppliedError,
    StoreError,
    StoreFailedError,
)
from lifeline.store.id_index import IdIndex
from lifeline.store.retention import RetentionPolicy
from lifeline.store.rocksdb import FAMILIES
from lifeline.store.state import State
from lifeline.store.statistics import PartitionStatistics, family_statistics, files_in, number

ITEMS_BLOCK = 4_096
_INSTANCES = itertools.count()


class View(NamedTuple):
    """A consistent view of a partition: iterators and item ids of one moment."""

    as_of: AsOf
    """The state that the view shows."""
    rows: RdictIter
    """Heads and segments."""
    chunks: RdictIter
    """Chunks."""
    item_ids: NDArray[np.uint64]
    """uint64[m]: the item id of each ordinal that the view may hold."""


class PartitionDatabase:
    """Every method may be called from any thread."""

    def __init__(self, db: Rdict, path: Path, partition: int) -> None:
        """Take over an open database; raises CorruptRecordError, FormatVersionError."""
        self.path, self.partition = path, partition
        self.instance = next(_INSTANCES)
        """Unique among all partitions that this process ever opens."""
        lock = threading.RLock()
        self.changed = threading.Condition(lock)
        """Notified when the state, `is_closed` or the failure changes; its lock guards them."""
        # A second condition, so that the end of a read does not wake the threads that wait for an offset.
        self._view_closed = threading.Condition(lock)
        self._failure: BaseException | None = None
        self._disk = DiskSpace(path)
        self.is_closed = False
        self._views: set[int] = set()
        self._view_number = 0
        self.state = State()
        """Applied offset, watermark, events and fingerprint of one moment."""
        self.items = IdIndex()
        self._items_folded = 0
        self.policy: RetentionPolicy | None = None
        self.use(db)
        with self.closed_on_error():
            self.load()

    def use(self, db: Rdict) -> None:
        """Use this database from now on."""
        self.db = db
        self.families: Mapping[str, Rdict] = {name: db.get_column_family(name) for name in FAMILIES}
        self.rows, self.chunks, self.meta = self.families.values()
        self.handles = {name: db.get_column_family_handle(name) for name in FAMILIES}

    def load(self) -> None:
        """Read the retention policy, the state, and the item ids that are not in memory yet."""
        policy: bytes | None = self.meta.get(keys.POLICY_KEY)
        self.policy = None if policy is None else RetentionPolicy.unpack(policy)
        state = self.meta.get(keys.STATE_KEY)
        if state is not None:
            if self.policy is None:
                raise FormatVersionError("the partition", "older (without a retention policy)", 2)
            self.state = State.unpack(state)
        parts: list[NDArray[np.uint64]] = []
        count = folded = self._items_folded
        known = len(self.items)
        iterator = self.meta.iter()
        iterator.seek(keys.items_key(folded))
        while iterator.valid() and iterator.key().startswith(keys.ITEMS_PREFIX):
            data = iterator.value()
            ids = np.frombuffer(data[: len(data) // 8 * 8], np.uint64)
            if keys.items_first(iterator.key()) != count or len(data) % 8:
                raise CorruptRecordError(f"item ids from ordinal {count} on are missing", partition=self.partition)
            parts.append(ids[max(0, known - count) :])
            if count == folded and len(ids) == ITEMS_BLOCK:
                folded += ITEMS_BLOCK
            count += len(ids)
            iterator.next()
        if parts:
            new = np.concatenate(parts)
            if known:
                self.items.add(new)
            else:
                self.items = IdIndex(new)
        if len(self.items) != count:
            raise CorruptRecordError("an item has two ordinals", partition=self.partition)
        self._items_folded = folded

    # Writing

    def put_new_items(self, write: WriteBatch, known: int) -> None:
        """Add the item ids from ordinal `known` on to a batch. Changes nothing in memory."""
        ids, handle = self.items.ids, self.handles["meta"]
        if len(ids) == known:
            return
        write.put(keys.items_key(known), ids[known:].tobytes(), handle)
        # Earlier writes have joined all blocks that were full then.
        for start in range(known // ITEMS_BLOCK * ITEMS_BLOCK, len(ids) - ITEMS_BLOCK + 1, ITEMS_BLOCK):
            end = start + ITEMS_BLOCK
            # One block replaces many small records: opening reads one record for 4,096 items.
            write.delete_range(keys.items_key(start), keys.items_key(end), handle)
            write.put(keys.items_key(start), ids[start:end].tobytes(), handle)
            if len(ids) > end:
                write.put(keys.items_key(end), ids[end:].tobytes(), handle)

    def commit(self, write: WriteBatch, state: State) -> None:
        """Write a batch that brings the partition to `state`.

        If it fails, nothing has changed: raises DiskFullError if the batch may be written again, else StoreFailedError.
        """
        with self.changed:
            try:
                self.db.write(write)
            except Exception as error:  # rocksdict raises bare Exception
                if self._disk.may_return(error):
                    what = f"the next records of partition {self.partition}"
                    raise DiskFullError(what, self.path, str(error)) from error
                self.fail(error)
                self.check_usable()
            except BaseException as error:
                # Nobody knows whether it is written.
                self.fail(error)
                raise
            self.state = state
            self._disk.on_write()
            self.changed.notify_all()

    def forget_items(self, known: int) -> None:
        """Remove the item ids from ordinal `known` on, which no write has stored."""
        with self.changed:
            self.items.truncate(known)

    # Reading

    @contextmanager
    def view(self) -> Iterator[View]:
        """Give one consistent view: rows, chunks and applied offset of the same moment."""
        # A RocksDB iterator covers one column family: the lock keeps writes out until both are created.
        with self.changed:
            self.check_usable()
            state = self.state
            as_of = AsOf(self.partition, state.applied_offset, state.watermark_ms)
            view = View(as_of, self.rows.iter(), self.chunks.iter(), self.items.ids)
            self._view_number += 1
            view_number = self._view_number
            self._views.add(view_number)
        try:
            yield view
        finally:
            del view
            with self.changed:
                self._views.discard(view_number)
                self._view_closed.notify_all()

    def wait_for(self, offset: int, timeout_s: float) -> None:
        """Return when `offset` is applied; raises NotYetAppliedError after `timeout_s` seconds."""
        deadline = time.monotonic() + timeout_s
        with self.changed:
            while self.state.applied_offset < offset:
                self.check_usable()
                left = deadline - time.monotonic()
                if left <= 0 or not self.changed.wait(left):
                    break
            self.check_usable()
            if self.state.applied_offset < offset:
                raise NotYetAppliedError(self.partition, offset, self.state.applied_offset)

    def wait_for_views(self) -> None:
        """Return when every view that is open now is closed."""
        with self.changed:
            open_now = set(self._views)
            self._view_closed.wait_for(lambda: not open_now & self._views)

    def statistics(self) -> PartitionStatistics:
        """Return RocksDB's current numbers."""
        with self.changed:
            self.check_usable()
            files = list(files_in(self.path))
            return PartitionStatistics(
                families={name: family_statistics(family) for name, family in self.families.items()},
                block_cache_bytes=number(self.rows, "block-cache-usage"),
                block_cache_pinned_bytes=number(self.rows, "block-cache-pinned-usage"),
                wal_bytes=sum(size for path, size in files if path.suffix == ".log"),
                directory_bytes=sum(size for _, size in files),
                open_views=len(self._views),
                background_errors=number(self.rows, "background-errors"),
                writes_stopped=bool(number(self.rows, "is-write-stopped")),
            )

    # Life

    @property
    def has_failed(self) -> bool:
        """Whether reads and writes are refused after a failure."""
        return self._failure is not None

    def check_usable(self) -> None:
        """Raise NotOwnerError when closed, StoreFailedError after a failure."""
        if self.is_closed:
            raise NotOwnerError(self.partition)
        if self._failure is not None:
            raise StoreFailedError(
                f"an earlier write of partition {self.partition} failed ({self._failure}): fix the cause, then restart "
                "the node"
            ) from self._failure

    def fail(self, error: BaseException) -> None:
        """Refuse reads and writes from now on."""
        with self.changed:
            self._failure = error
            self.changed.notify_all()

    def recover(self) -> None:
        """Allow reads again after a later load has succeeded, and wake the threads that wait for an offset."""
        with self.changed:
            self._failure = None
            self.changed.notify_all()

    def close(self) -> None:
        """Close; waits for the views in use. Idempotent."""
        with self.changed:
            if self.is_closed:
                return
            self.is_closed = True
            self.changed.notify_all()
            self._view_closed.wait_for(lambda: not self._views)
            self.close_handles()

    @contextmanager
    def closed_on_error(self) -> Iterator[None]:
        """Close the files if the block raises, even if the error object stays alive."""
        try:
            yield
        except BaseException:
            self.close_handles()
            raise

    def close_handles(self) -> None:
        """Close RocksDB; the files are unlocked when the last handle and view is gone. Raises StoreError."""
        # Clear it in place: an error's traceback may keep the mapping alive, and a handle keeps the files locked.
        self.handles.clear()
        errors: list[Exception] = []
        for handle in (self.rows, self.chunks, self.meta, self.db):
            try:
                handle.close()
            except Exception as error:  # noqa: BLE001 - rocksdict raises bare Exception
                errors.append(error)
        # After a failed write, closing fails too, with a less useful error.
        if errors and self._failure is None and not self._disk.is_short:
            raise StoreError(
                f"{self.path} did not close cleanly ({errors[0]}): check the disk; applied data is not lost"
            ) from errors[0]
