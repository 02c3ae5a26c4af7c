"""The embedding table: one int8 matrix for all partitions of the process, memory-mapped, fed by the items topic.

``embeddings.bin`` is a page of header (8 bytes of magic) followed by rows of 48 bytes, little-endian::

    item_id u64 · version u32 · reserved u32 · embedding int8[32]

Row 0 is zeros and stands for "no embedding". A row is written in place and the last record of the log wins, so
reading the same records again changes nothing: ``embeddings.json`` (rows, applied offsets) may therefore lag
behind the rows, and is replaced only after they are synced.
"""

import json
import mmap
import os
import threading
import time
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from store.errors import CorruptRecordError, FormatVersionError
from store.id_index import IdIndex
from store.sequence import EMBEDDING_DIM

FORMAT = 1
ROW = np.dtype([("item_id", "<u8"), ("version", "<u4"), ("reserved", "<u4"), ("embedding", "i1", (EMBEDDING_DIM,))])

_MAGIC = b"LLEMBED\x01"
_HEADER_BYTES = 4_096
_SMALLEST_ROWS = 1 << 12


class EmbeddingTable:
    """Item id to embedding. One writer (`apply`), any number of readers."""

    def __init__(self, path: Path, offsets: dict[int, int], rows: int, sync_every_s: float) -> None:
        """Use `EmbeddingTable.open`."""
        self._path, self._offsets, self._sync_every_s = path, offsets, sync_every_s
        self._file = (path / "embeddings.bin").open("r+b")
        self._map_rows()
        self._index = IdIndex(self._rows["item_id"][1 : rows + 1].copy())
        self._lock = threading.Lock()
        self._synced_at = time.monotonic()
        self._dirty = False

    @classmethod
    def open(cls, path: Path, *, sync_every_s: float = 1.0) -> Self:
        """Open or create the table in `path`; raises FormatVersionError, CorruptRecordError."""
        path.mkdir(parents=True, exist_ok=True)
        data, state = path / "embeddings.bin", path / "embeddings.json"
        if not data.exists():
            state.unlink(missing_ok=True)
            new = data.with_suffix(".tmp")
            with new.open("wb") as file:
                file.write(_MAGIC)
                file.truncate(_HEADER_BYTES + _SMALLEST_ROWS * ROW.itemsize)
            new.replace(data)
        with data.open("rb") as file:
            if file.read(len(_MAGIC)) != _MAGIC:
                raise FormatVersionError(str(data), "unknown", FORMAT)
        mapped, odd = divmod(data.stat().st_size - _HEADER_BYTES, ROW.itemsize)
        rows, offsets = _read_state(state) if state.exists() else (0, {})
        if odd or not 0 <= rows < mapped:
            raise CorruptRecordError(f"{data} has room for {mapped} rows, and {rows} are counted", directory=str(path))
        table = cls(path, offsets, rows, sync_every_s)
        if np.count_nonzero(table._index.ids == 0) > 1:
            table.close()
            raise CorruptRecordError(f"{data} has fewer rows than the {rows} that are counted", directory=str(path))
        return table

    def __len__(self) -> int:
        return len(self._index)

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
    ) -> None:
        """Store embeddings (uint64[n], int8[n, 32], uint32[n]); a row of zeros forgets one, later rows win.

        `offset` is the last offset of the items topic's partition that they cover.
        """
        with self._lock:
            if len(item_id):
                # Rows are mapped before the index names them, for readers look while this goes on.
                self._grow(len(self._index) + len(item_id) + 1)
                # Assignment keeps the last of several rows only where ids are distinct: keep the last ourselves.
                _, last = np.unique(item_id[::-1], return_index=True)
                keep = np.sort(len(item_id) - 1 - last)
                rows = self._index.add(item_id[keep]) + 1
                self._rows["item_id"][rows] = item_id[keep]
                self._rows["version"][rows] = version[keep]
                self._rows["embedding"][rows] = embedding[keep]
            self._offsets[partition] = offset
            self._dirty = True
            if time.monotonic() - self._synced_at >= self._sync_every_s:
                self._sync()

    def rows_of(self, item_id: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Return int64[n]: the row of each item, 0 where there is none. A row never moves."""
        return self._index.find(item_id) + 1

    def gather(self, rows: NDArray[np.int64]) -> NDArray[np.int8]:
        """Return int8[n, 32]: the embeddings of rows."""
        gathered: NDArray[np.int8] = self._rows["embedding"][rows]
        return gathered

    def lookup(self, item_id: NDArray[np.uint64]) -> tuple[NDArray[np.int8], NDArray[np.bool_]]:
        """Return int8[n, 32], zeros where unknown, and bool[n], whether it is known."""
        embedding = self.gather(self.rows_of(item_id))
        known: NDArray[np.bool_] = np.any(embedding, axis=1)
        return embedding, known

    def sync(self) -> None:
        """Bring the files up to date, if they are not: what another process opens is what was synced last."""
        with self._lock:
            self._sync()

    def close(self) -> None:
        """Sync to disk and close."""
        with self._lock:
            if not self._file.closed:
                self._sync()
                self._file.close()

    def _map_rows(self) -> None:
        size = os.fstat(self._file.fileno()).st_size
        # The views of an earlier, shorter map stay valid: they show the same pages of the same file.
        self._map = mmap.mmap(self._file.fileno(), size)
        self._rows: NDArray[np.void] = np.frombuffer(self._map, ROW, offset=_HEADER_BYTES)

    def _grow(self, wanted: int) -> None:
        if wanted > len(self._rows):
            rows = 1 << (wanted - 1).bit_length()
            self._file.truncate(_HEADER_BYTES + rows * ROW.itemsize)
            self._map_rows()

    def _sync(self) -> None:
        if not self._dirty:
            return
        self._map.flush()
        state = self._path / "embeddings.json"
        text = json.dumps({"format": FORMAT, "rows": len(self._index), "offsets": self._offsets})
        temporary = state.with_suffix(".tmp")
        with temporary.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(state)
        self._synced_at, self._dirty = time.monotonic(), False


def _read_state(path: Path) -> tuple[int, dict[int, int]]:
    """Return how many rows are synced, and the applied offset of each partition."""
    directory = str(path.parent)
    try:
        content = json.loads(path.read_text())
        version = content["format"]
        if version != FORMAT:
            raise FormatVersionError(str(path), version, FORMAT)
        rows = int(content["rows"])
        return rows, {int(partition): int(offset) for partition, offset in content["offsets"].items()}
    except (ValueError, KeyError, AttributeError, TypeError, OverflowError) as error:
        raise CorruptRecordError(f"{path} does not decode", directory=directory) from error
