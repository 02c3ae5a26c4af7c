"""The embedding table: one memory-mapped int8 matrix for all partitions of the process, filled from the items topic.

The node writes it (`EmbeddingTable`), and other processes read the same pages (`SecondaryEmbeddings`). The last record
of an item wins, so applying the same records again changes nothing. embedding_files.py describes the layout.
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
    """Read access by item id. Every method may be called from any thread."""

    def __init__(self, files: EmbeddingFiles) -> None:
        """Take over open files; raises FormatVersionError, CorruptRecordError."""
        self._files = files
        # Read the sync point first: its rows are then published.
        self._synced = files.synced()
        item_ids = files.item_ids(1)
        if not 0 <= self._synced.rows <= len(item_ids):
            raise CorruptRecordError(
                f"the embeddings have {len(item_ids)} complete rows, and embeddings.json counts {self._synced.rows}",
                directory=str(files.path),
            )
        self._index = IdIndex(item_ids)

    def __len__(self) -> int:
        """Items that have a row."""
        return len(self._index)

    def stamp(self) -> tuple[int, int]:
        """Return a value that differs from an earlier one if any embedding has changed since."""
        return self._files.changes, len(self._index)

    def rows_of(self, item_id: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Return int64[n]: the row of each item, 0 where there is none. A row never moves."""
        rows = self._index.find(item_id)
        rows += 1
        return rows

    def gather(self, rows: NDArray[np.int64]) -> NDArray[np.int8]:
        """Return int8[n, 32]: the current embeddings of rows, none of them torn."""
        return self._files.gather(rows)

    def lookup(self, item_id: NDArray[np.uint64]) -> tuple[NDArray[np.int8], NDArray[np.bool_]]:
        """Return int8[n, 32], zeros for unknown items, and bool[n], whether each is known."""
        embedding = self.gather(self.rows_of(item_id))
        return embedding, nonzero_rows(embedding)

    def versions(self, rows: NDArray[np.int64]) -> NDArray[np.uint32]:
        """Return uint32[n]: the version that each row was published with, 0 for row 0."""
        versions = self._files.versions(rows)
        versions[rows == 0] = 0
        return versions

    def close(self) -> None:
        """Close the files. Idempotent."""
        self._files.close()


class EmbeddingTable(Embeddings):
    """The table in the process that writes it."""

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
        """Open or create the table in `path`. Once it has `max_items` rows it accepts no new items; None for no limit.

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
        """Store embeddings (uint64[n], int8[n, 32], uint32[n]); zeros remove one, and later rows win.

        `offset` is the last offset that they cover in this partition of the items topic. Returns how many new items
        were skipped because the table is full; existing items are always updated. Raises DiskFullError, after
        which the same call may be repeated.
        """
        with self._lock:
            last = _last_rows(item_id)
            item_id, embedding, version = item_id[last], embedding.take(last, 0), version[last]
            rows = self.rows_of(item_id)
            old, new = rows.nonzero()[0], (rows == 0).nonzero()[0]
            room = len(new) if self._max_items is None else max(0, self._max_items - len(self._index))
            new, skipped = new[:room], max(0, len(new) - room)
            if len(old):
                self._files.replace(rows[old], embedding.take(old, 0), version[old])
            if len(new):
                # Write and map the rows before the index refers to them: readers are concurrent.
                self._files.append(item_id[new], embedding.take(new, 0), version[new])
                self._index.add(item_id[new])
                self._files.publish(len(self._index))
            self._offsets[partition] = offset
            self._changes += 1
        if time.monotonic() - self._synced_at >= self._sync_every_s:
            self.sync()
        return skipped

    def sync(self) -> None:
        """Sync the files to disk if they have changed, and publish the applied offsets to other processes.

        Raises DiskFullError, after which the call may be repeated, and StoreError.
        """
        with self._syncing:
            # Rows that are written during the sync are not counted in it, which is harmless.
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
    """How far a secondary's set of items may be behind the writer's. The embeddings themselves are always current."""

    items: int
    """Items that the secondary has."""
    items_behind: int
    """Items that the writer has added since."""
    offsets: Mapping[int, int]
    """For each partition of the items topic, an offset up to which all records are included, as of the last sync."""
    seconds: float
    """Seconds since the last catch-up."""


class SecondaryEmbeddings(Embeddings):
    """Reads the table that another process writes."""

    def __init__(self, files: EmbeddingFiles) -> None:
        """Use `SecondaryEmbeddings.open`."""
        self._caught_up_at = time.monotonic()
        self._lock = threading.Lock()
        super().__init__(files)

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open the table in `path`; raises StoreError, FormatVersionError, CorruptRecordError."""
        files = EmbeddingFiles(path, writable=False)
        try:
            return cls(files)
        except BaseException:
            files.close()
            raise

    def catch_up(self) -> EmbeddingStaleness:
        """Include the items that the writer has added; raises StoreError if the table was replaced by another."""
        with self._lock:
            started = time.monotonic()
            if self._files.was_replaced():
                raise StoreError(
                    f"the embeddings in {self._files.path} were replaced by another table: open them again"
                )
            synced = self._files.synced()
            self._index.add(self._files.item_ids(len(self) + 1))
            self._synced, self._caught_up_at = synced, started
        return self.staleness()

    def staleness(self) -> EmbeddingStaleness:
        """Return how far this may be behind the writer."""
        items, synced = len(self), self._synced
        items_behind = max(0, self._files.rows - items)
        return EmbeddingStaleness(items, items_behind, synced.offsets, time.monotonic() - self._caught_up_at)


def _last_rows(item_id: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return the row of each item's last occurrence, ascending."""
    ascending = np.sort(item_id)
    if (ascending[1:] != ascending[:-1]).all():
        return np.arange(len(item_id))
    _, last = np.unique(item_id[::-1], return_index=True)
    return np.sort(len(item_id) - 1 - last)
