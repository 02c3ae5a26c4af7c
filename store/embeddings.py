"""The embedding table: one int8 matrix for all partitions of the process, memory-mapped, fed by the items topic.

The node writes it (`EmbeddingTable`); other processes read the same pages beside it (`EmbeddingFollower`). The last
record of the log wins, so reading the same records again changes nothing. embedding_files.py has the layout.
"""

import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from lifeline.store.embedding_files import EmbeddingFiles, SyncPoint, nonzero_rows
from lifeline.store.errors import CorruptRecordError, StoreError
from lifeline.store.id_index import IdIndex


class Embeddings:
    """Item id to embedding, for those who read. Every method may be called from any thread."""

    def __init__(self, files: EmbeddingFiles) -> None:
        """Take over open files; raises FormatVersionError, CorruptRecordError."""
        self._files = files
        # In this order: what is synced is published.
        self._synced = files.synced()
        item_ids = files.item_ids(1)
        if not 0 <= self._synced.rows <= len(item_ids):
            raise CorruptRecordError(
                f"the embeddings have {len(item_ids)} rows, and {self._synced.rows} are counted",
                directory=str(files.path),
            )
        self._index = IdIndex(item_ids)

    def __len__(self) -> int:
        """Items that have a row."""
        return len(self._index)

    def stamp(self) -> tuple[int, int]:
        """Return what is another one after any embedding has changed: compare it with an earlier one."""
        return self._files.changes, len(self._index)

    def rows_of(self, item_id: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Return int64[n]: the row of each item, 0 where there is none. A row never moves."""
        rows = self._index.find(item_id)
        rows += 1
        return rows

    def gather(self, rows: NDArray[np.int64]) -> NDArray[np.int8]:
        """Return int8[n, 32]: the embeddings of rows, as they are now, and never half of one."""
        return self._files.gather(rows)

    def lookup(self, item_id: NDArray[np.uint64]) -> tuple[NDArray[np.int8], NDArray[np.bool_]]:
        """Return int8[n, 32], zeros where unknown, and bool[n], whether it is known."""
        embedding = self.gather(self.rows_of(item_id))
        return embedding, nonzero_rows(embedding)

    def versions(self, rows: NDArray[np.int64]) -> NDArray[np.uint32]:
        """Return uint32[n]: the version that each row was published with, 0 for row 0."""
        versions = self._files.versions(rows)
        versions[rows == 0] = 0
        return versions

    def close(self) -> None:
        """Let go of the files. Idempotent."""
        self._files.close()


class EmbeddingTable(Embeddings):
    """The table for the process that writes it."""

    def __init__(self, files: EmbeddingFiles, sync_every_s: float, max_items: int | None) -> None:
        """Use `EmbeddingTable.open`."""
        super().__init__(files)
        files.recover(len(self))
        self._sync_every_s, self._max_items = sync_every_s, max_items
        self._offsets = dict(self._synced.offsets)
        self._lock, self._syncing = threading.Lock(), threading.Lock()
        self._changes = self._synced_changes = 0
        self._synced_at = time.monotonic()

    @classmethod
    def open(cls, path: Path, *, sync_every_s: float = 1.0, max_items: int | None = None) -> Self:
        """Open or create the table in `path`. With `max_items` rows it takes no new item; None has no bound.

        Raises StoreLockedError while another process writes it, StoreError, FormatVersionError, CorruptRecordError.
        """
        files = EmbeddingFiles(path, writable=True)
        try:
            return cls(files, sync_every_s, max_items)
        except BaseException:
            files.close()
            raise

    def applied_offset(self, partition: int) -> int:
        """Return the last applied offset of a partition of the items topic; -1 before the first."""
        return self._offsets.get(partition, -1)

    def apply(
        self,
        item_id: NDArray[np.uint64],
        embedding: NDArray[np.int8],
        version: NDArray[np.uint32],
        *,
        partition: int,
        offset: int,
    ) -> int:
        """Store embeddings (uint64[n], int8[n, 32], uint32[n]); a row of zeros forgets one, later rows win.

        `offset` is the last offset of the items topic's partition that they cover. Returns how many new items were
        passed over because the table has no room for them; an item that it has is never passed over. Raises StoreError
        when the disk is full.
        """
        with self._lock:
            last = _last_of_each(item_id)
            item_id, embedding, version = item_id[last], embedding.take(last, 0), version[last]
            rows = self.rows_of(item_id)
            old, new = rows.nonzero()[0], (rows == 0).nonzero()[0]
            room = len(new) if self._max_items is None else max(0, self._max_items - len(self._index))
            new, too_many = new[:room], max(0, len(new) - room)
            if len(old):
                self._files.replace(rows[old], embedding.take(old, 0), version[old])
            if len(new):
                # Rows are written and mapped before the index names them, for readers look while this goes on.
                self._files.append(item_id[new], embedding.take(new, 0), version[new])
                self._index.add(item_id[new])
                self._files.publish(len(self._index))
            self._offsets[partition] = offset
            self._changes += 1
        if time.monotonic() - self._synced_at >= self._sync_every_s:
            self.sync()
        return too_many

    def sync(self) -> None:
        """Bring the files to the disk, if they are not there, and tell followers what is applied."""
        with self._syncing:
            # Rows that are written while the disk is busy are more than is said to be there, which does no harm.
            with self._lock:
                changes, synced = self._changes, SyncPoint(len(self), dict(self._offsets))
            if changes != self._synced_changes:
                self._files.sync(synced)
                self._synced_changes, self._synced_at = changes, time.monotonic()

    def close(self) -> None:
        """Sync to disk and close. Idempotent."""
        try:
            self.sync()
        finally:
            super().close()


class EmbeddingStaleness(NamedTuple):
    """How old what a follower shows may be. The embeddings of the items it shows are always as they are now."""

    items: int
    """Items that it shows."""
    items_behind: int
    """Items that the writer has added since."""
    offsets: Mapping[int, int]
    """The offset of each partition of the items topic up to which everything is shown; the writer tells at its sync."""
    seconds: float
    """Time since it caught up with the writer."""


class EmbeddingFollower(Embeddings):
    """The table of another process, read beside it."""

    def __init__(self, files: EmbeddingFiles) -> None:
        """Use `EmbeddingFollower.open`."""
        self._caught_up_at = time.monotonic()
        self._lock = threading.Lock()
        super().__init__(files)

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open the table in `path` as it is now; raises StoreError, FormatVersionError, CorruptRecordError."""
        files = EmbeddingFiles(path, writable=False)
        try:
            return cls(files)
        except BaseException:
            files.close()
            raise

    def catch_up(self) -> EmbeddingStaleness:
        """Show the items that the writer has added by now; raises StoreError when it has made the table anew."""
        with self._lock:
            started = time.monotonic()
            if self._files.made_anew():
                raise StoreError(f"the embeddings in {self._files.path} were made anew: open them again")
            synced = self._files.synced()
            self._index.add(self._files.item_ids(len(self) + 1))
            self._synced, self._caught_up_at = synced, started
        return self.staleness()

    def staleness(self) -> EmbeddingStaleness:
        """Say how old what it shows may be."""
        items, synced = len(self), self._synced
        behind = max(0, self._files.rows - items)
        return EmbeddingStaleness(items, behind, synced.offsets, time.monotonic() - self._caught_up_at)


def _last_of_each(item_id: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return where each item is for the last time."""
    ascending = np.sort(item_id)
    if (ascending[1:] != ascending[:-1]).all():
        return np.arange(len(item_id))
    _, last = np.unique(item_id[::-1], return_index=True)
    return np.sort(len(item_id) - 1 - last)
