"""The memory-mapped files of an embedding table: their layout, and updates beside concurrent readers.

``embeddings.bin``, little-endian: a page of header, the pending block, and from byte 299,008 on the matrix::

    header   "LLEMBED" · format u8 · rows u64 · changes u64 · pending u64 · checksum u64
    pending  row u32[8192] · embedding int8[8192][32]
    matrix   embedding int8[32] of row 0, 1, ...

``items.bin`` has 16 bytes a row: item_id u64 · version u32 · check u32. Row 0 of the matrix is zeros and stands for
"no embedding"; row 0 of the items is "LLITEMS" · format u8 · zeros. Both files have spare space after their rows.

Readers in any process see complete, current rows and never block:

- To append, the writer writes the new rows and then raises `rows`. Readers ignore what lies beyond `rows`.
- To change rows, the writer copies their new values to the pending block, in ascending order. `pending` is their count,
  and `checksum` the xxh3_64 of their row numbers and embeddings. The writer then makes `changes` odd, writes the rows
  in place, and makes it even again (a sequence lock). A reader reads again if `changes` moved meanwhile; while it is
  odd, a reader takes these rows from the pending block. So a writer that is killed halfway leaves no torn row, and the
  next writer completes the change.

``embeddings.json`` (rows, applied offsets) is replaced after both files are synced. If the process crashes, no written
data is lost. After a power failure, each page that was written since the sync may be old or new. The log from those
offsets on has all later records, and `check` tells which rows after the synced ones are complete: it is the upper
half of (item_id xor row * 0x9E3779B97F4A7C15) * 0xD6E8FEB86659FD93, with its lowest bit set.
"""

import errno
import fcntl
import json
import mmap
import os
from collections.abc import Mapping
from contextlib import ExitStack
from io import FileIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
import xxhash
from numpy.typing import NDArray

from lifeline.core.atomic_files import write_durably
from lifeline.core.sequence import EMBEDDING_DIM
from lifeline.store.errors import (
    CorruptRecordError,
    DiskFullError,
    FormatVersionError,
    StoreError,
    StoreLockedError,
)

FORMAT = 2
PENDING_ROWS = 1 << 13

_MATRIX, _ITEMS, _STATE = "embeddings.bin", "items.bin", "embeddings.json"
_MAGIC = {_MATRIX: b"LLEMBED", _ITEMS: b"LLITEMS"}
_HEADER_BYTES = 4_096
_PENDING_EMBEDDING_AT = _HEADER_BYTES + 4 * PENDING_ROWS
_MATRIX_AT = _PENDING_EMBEDDING_AT + EMBEDDING_DIM * PENDING_ROWS
_ITEM = np.dtype([("item_id", "<u8"), ("version", "<u4"), ("check", "<u4")])
_ROWS, _CHANGES, _PENDING, _CHECKSUM = range(1, 5)
_SMALLEST_ROWS = 1 << 12
_READ_AT_ONCE = 1 << 8


class SyncPoint(NamedTuple):
    """The rows and offsets that survive a power failure."""

    rows: int
    """Rows, not counting row 0."""
    offsets: Mapping[int, int]
    """The last applied offset of each partition of the items topic."""


class _Maps(NamedTuple):
    """Maps of both files at their current length. A map stays valid when its file grows."""

    header: memoryview
    """The header page as u64s."""
    pending_rows: NDArray[np.uint32]
    """uint32[8192]."""
    pending_embedding: NDArray[np.int8]
    """int8[8192, 32]."""
    matrix: NDArray[np.int8]
    """int8[m, 32]."""
    items: NDArray[np.void]
    """_ITEM[m]."""


class EmbeddingFiles:
    """The files of one directory. One process may open them for writing, any number for reading."""

    def __init__(self, path: Path, *, writable: bool) -> None:
        """Open the files; a writer creates missing ones.

        Raises StoreError, StoreLockedError, FormatVersionError, CorruptRecordError.
        """
        self.path, self._writable = path, writable
        with ExitStack() as opened:
            if writable:
                _create_missing(path)
            elif not (path / _MATRIX).exists():
                raise StoreError(f"{path} holds no embeddings: name the data directory of a node that has run")
            self._matrix_file = opened.enter_context(_open(path / _MATRIX, writable=writable))
            if writable:
                _lock(self._matrix_file)
                # Unlock explicitly: maps keep the file, and so its lock, open until their last reader is done.
                opened.callback(fcntl.flock, self._matrix_file, fcntl.LOCK_UN)
            self._items_file = opened.enter_context(_open(path / _ITEMS, writable=writable))
            self._mapped = self._map()
            self._opened = opened.pop_all()

    @property
    def rows(self) -> int:
        """Rows that the writer has published, not counting row 0."""
        return int(self._mapped.header[_ROWS])

    @property
    def changes(self) -> int:
        """The change counter: it grows by two for each change of published rows, and is odd during a change."""
        return int(self._mapped.header[_CHANGES])

    def was_replaced(self) -> bool:
        """Return whether the files on disk are no longer the open ones, or are gone."""
        try:
            return not os.path.samestat((self.path / _MATRIX).stat(), os.fstat(self._matrix_file.fileno()))
        except FileNotFoundError:
            return True

    # Reading, from any thread

    def gather(self, rows: NDArray[np.int64]) -> NDArray[np.int8]:
        """Return int8[n, 32]: the embeddings of rows, none of them torn."""
        mapped = self._mapped
        changes = mapped.header[_CHANGES]
        embedding = mapped.matrix.take(rows, 0)
        if changes % 2 == 0 and mapped.header[_CHANGES] == changes:
            return embedding
        return _gather_during_changes(mapped, rows)

    def versions(self, rows: NDArray[np.int64]) -> NDArray[np.uint32]:
        """Return uint32[n]: the version of each row; undefined for row 0."""
        versions: NDArray[np.uint32] = self._mapped.items["version"][rows]
        return versions

    def item_ids(self, first: int) -> NDArray[np.uint64]:
        """Return uint64[n]: the items of the published rows from `first` on, up to the first torn row."""
        rows = self.rows
        if rows >= len(self._mapped.matrix):
            self._mapped = self._map()
        items = self._mapped.items[first : rows + 1]
        item_id: NDArray[np.uint64] = items["item_id"].copy()
        torn = (items["check"] != _checks(item_id, first)).nonzero()[0]
        return item_id[: torn[0]] if len(torn) else item_id

    def synced(self) -> SyncPoint:
        """Return the last sync point; raises FormatVersionError, CorruptRecordError."""
        state = self.path / _STATE
        try:
            content = json.loads(state.read_text())
            version = content["format"]
            if version != FORMAT:
                raise FormatVersionError(str(state), version, FORMAT)
            rows = int(content["rows"])
            return SyncPoint(rows, {int(partition): int(offset) for partition, offset in content["offsets"].items()})
        except FileNotFoundError:
            return SyncPoint(0, {})
        except (ValueError, KeyError, AttributeError, TypeError, OverflowError) as error:
            raise CorruptRecordError(f"{state} does not decode", directory=str(self.path)) from error

    # Writing, one thread at a time

    def recover(self, rows: int) -> None:
        """Complete the change of a killed writer, and clear everything after the first `rows` rows."""
        self._finish(self._mapped)
        self.publish(rows)
        rest = self._mapped.items[rows + 1 :]
        if rest["check"].any():
            # Otherwise these old rows could pass for new ones after the next power failure.
            rest[:] = 0
            os.fsync(self._items_file.fileno())

    def append(self, item_id: NDArray[np.uint64], embedding: NDArray[np.int8], version: NDArray[np.uint32]) -> None:
        """Write new rows after the published ones; `publish` shows them. Raises DiskFullError."""
        first = self.rows + 1
        end = first + len(item_id)
        self._grow(end)
        self._mapped.matrix[first:end] = embedding
        items = self._mapped.items[first:end]
        items["item_id"], items["version"], items["check"] = item_id, version, _checks(item_id, first)

    def publish(self, rows: int) -> None:
        """Make the first `rows` rows visible to readers."""
        self._mapped.header[_ROWS] = rows

    def replace(self, rows: NDArray[np.int64], embedding: NDArray[np.int8], version: NDArray[np.uint32]) -> None:
        """Change published rows, which must be distinct. Rows with equal values are not written."""
        mapped = self._mapped
        self._finish(mapped)
        differs = nonzero_rows(mapped.matrix.take(rows, 0) ^ embedding)
        differs |= mapped.items["version"][rows] != version
        changed = differs.nonzero()[0]
        changed = changed[rows[changed].argsort()]
        mapped.items["version"][rows[changed]] = version[changed]
        for at in range(0, len(changed), PENDING_ROWS):
            block = changed[at : at + PENDING_ROWS]
            self._replace_block(mapped, rows[block], embedding.take(block, 0))

    def sync(self, synced: SyncPoint) -> None:
        """Sync all written data to disk; `synced` is the state at the time of the call.

        Raises DiskFullError, StoreError.
        """
        # fsync includes the mapped pages of a file. mmap.flush would hold the GIL meanwhile.
        content = json.dumps({"format": FORMAT, "rows": synced.rows, "offsets": synced.offsets})
        try:
            os.fsync(self._matrix_file.fileno())
            os.fsync(self._items_file.fileno())
        except OSError as error:
            raise StoreError(
                f"the embeddings in {self.path} cannot be synced ({error.strerror}): check the disk, then restart the "
                "node"
            ) from error
        try:
            write_durably(self.path / _STATE, content)
        except OSError as error:
            raise _write_error(self.path / _STATE, error) from error

    def close(self) -> None:
        """Close the files; existing maps stay readable. Idempotent."""
        self._opened.close()

    def _finish(self, mapped: _Maps) -> None:
        """Complete an interrupted change from the pending block."""
        if mapped.header[_CHANGES] % 2:
            pending = _pending(mapped)
            if pending is not None:
                in_range = pending[0] < len(mapped.matrix)
                self._put(mapped.matrix, pending[0][in_range], pending[1][in_range])
            mapped.header[_CHANGES] += 1

    def _replace_block(self, mapped: _Maps, rows: NDArray[np.int64], embedding: NDArray[np.int8]) -> None:
        count = len(rows)
        mapped.pending_rows[:count] = rows
        mapped.pending_embedding[:count] = embedding
        mapped.header[_PENDING] = count
        mapped.header[_CHECKSUM] = _checksum(mapped.pending_rows[:count], mapped.pending_embedding[:count])
        mapped.header[_CHANGES] += 1
        self._put(mapped.matrix, mapped.pending_rows[:count], embedding)
        mapped.header[_CHANGES] += 1

    @staticmethod
    def _put(matrix: NDArray[np.int8], rows: NDArray[np.uint32], embedding: NDArray[np.int8]) -> None:
        matrix[rows] = embedding

    def _grow(self, rows: int) -> None:
        if rows > len(self._mapped.matrix):
            rows = 1 << (rows - 1).bit_length()
            _reserve(self._matrix_file, _MATRIX_AT + rows * EMBEDDING_DIM)
            _reserve(self._items_file, rows * _ITEM.itemsize)
            self._mapped = self._map()

    def _map(self) -> _Maps:
        access = mmap.ACCESS_WRITE if self._writable else mmap.ACCESS_READ
        matrix, items = (mmap.mmap(file.fileno(), 0, access=access) for file in (self._matrix_file, self._items_file))
        rows = min((len(matrix) - _MATRIX_AT) // EMBEDDING_DIM, len(items) // _ITEM.itemsize)
        if rows < 1:
            raise CorruptRecordError(f"{self.path / _MATRIX} is cut short", directory=str(self.path))
        return _Maps(
            memoryview(matrix)[:_HEADER_BYTES].cast("Q"),
            np.frombuffer(matrix, np.uint32, PENDING_ROWS, _HEADER_BYTES),
            _matrix(matrix, PENDING_ROWS, _PENDING_EMBEDDING_AT),
            _matrix(matrix, rows, _MATRIX_AT),
            np.frombuffer(items, _ITEM, rows),
        )


def nonzero_rows(embedding: NDArray[np.int8]) -> NDArray[np.bool_]:
    """Return bool[n]: whether each row of int8[n, 32] has a value other than zero."""
    words = np.ascontiguousarray(embedding).view(np.uint64)
    nonzero: NDArray[np.bool_] = (words[:, 0] | words[:, 1] | words[:, 2] | words[:, 3]) != 0
    return nonzero


def _gather_during_changes(mapped: _Maps, rows: NDArray[np.int64]) -> NDArray[np.int8]:
    while True:
        changes = mapped.header[_CHANGES]
        embedding = mapped.matrix.take(rows, 0)
        pending = _pending(mapped) if changes % 2 else None
        if mapped.header[_CHANGES] == changes:
            if pending is not None:
                at = pending[0].searchsorted(rows)
                is_pending = (pending[0].take(at, mode="clip") == rows).nonzero()[0]
                embedding[is_pending] = pending[1][at[is_pending]]
            return embedding
        if len(rows) > _READ_AT_ONCE:
            # Split: a shorter read is more likely to fit between two changes.
            halves = (rows[: len(rows) // 2], rows[len(rows) // 2 :])
            return np.concatenate([_gather_during_changes(mapped, half) for half in halves])


def _pending(mapped: _Maps) -> tuple[NDArray[np.uint32], NDArray[np.int8]] | None:
    """Return the row numbers and embeddings of the pending block, or None if it is empty or incomplete."""
    count = mapped.header[_PENDING]
    rows, embedding = mapped.pending_rows[:count].copy(), mapped.pending_embedding[:count].copy()
    is_complete = len(rows) == count and _checksum(rows, embedding) == mapped.header[_CHECKSUM]
    return (rows, embedding) if is_complete and count else None


def _checksum(rows: NDArray[np.uint32], embedding: NDArray[np.int8]) -> int:
    checksum = xxhash.xxh3_64(rows.data)
    checksum.update(embedding.data)
    return checksum.intdigest()


def _checks(item_id: NDArray[np.uint64], first: int) -> NDArray[np.uint32]:
    checks = np.arange(first, first + len(item_id), dtype=np.uint64)
    checks *= np.uint64(0x9E3779B97F4A7C15)
    checks ^= item_id
    checks *= np.uint64(0xD6E8FEB86659FD93)
    checks >>= 32
    checks |= 1
    return checks.astype(np.uint32)


def _matrix(mapped: mmap.mmap, rows: int, at: int) -> NDArray[np.int8]:
    return np.frombuffer(mapped, np.int8, rows * EMBEDDING_DIM, at).reshape(rows, EMBEDDING_DIM)


def _lock(file: FileIO) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise StoreLockedError(
            f"{file.name} is open to another writer: stop that node, or give this one its own node.data_dir"
        ) from error


def _create_missing(path: Path) -> None:
    path.mkdir(parents=True, exist_ok=True)
    if (path / _MATRIX).exists():
        return
    # Create the matrix last: if it exists, the other files do too.
    (path / _STATE).unlink(missing_ok=True)
    for name, size in (
        (_ITEMS, _SMALLEST_ROWS * _ITEM.itemsize),
        (_MATRIX, _MATRIX_AT + _SMALLEST_ROWS * EMBEDDING_DIM),
    ):
        new = path / f"{name}.tmp"
        with new.open("wb", buffering=0) as file:
            file.write(_MAGIC[name] + bytes([FORMAT]))
            _reserve(file, size)
        new.replace(path / name)


def _reserve(file: FileIO, size: int) -> None:
    """Allocate space for a file; raises DiskFullError, StoreError.

    A sparse file would instead kill the process (SIGBUS) at the first write to its map.
    """
    present = os.fstat(file.fileno()).st_size
    if size <= present:
        return
    try:
        os.posix_fallocate(file.fileno(), present, size - present)
    except OSError as error:
        raise _write_error(Path(str(file.name)), error) from error


def _write_error(path: Path, error: OSError) -> StoreError:
    if error.errno == errno.ENOSPC:
        return DiskFullError(f"more embeddings in {path.name}", path.parent, error.strerror or "full")
    return StoreError(f"{path} cannot be written ({error.strerror}): check the disk, then restart the node")


def _open(path: Path, *, writable: bool) -> FileIO:
    try:
        file = path.open("r+b" if writable else "rb", buffering=0)
    except FileNotFoundError as error:
        raise CorruptRecordError(f"{path} is missing", directory=str(path.parent)) from error
    magic = _MAGIC[path.name]
    head = file.read(len(magic) + 1)
    if head != magic + bytes([FORMAT]):
        file.close()
        version = head[-1] if head[:-1] == magic else "unknown"
        raise FormatVersionError(str(path), version, FORMAT)
    return file
