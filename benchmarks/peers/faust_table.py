"""`faust_table`: the RocksDB store under a Faust table, driver rocksdict, the value a user's list of events.

The app, the table and the store are Faust's own, with its defaults: values in JSON (by orjson, which it takes
where it is there), an event as [timestamp, item, type, surface], which is shorter than an object. An append is
what `table[user] = [*table[user], event]` does to the store. Left out are the changelog record that the table
sends for each write (the whole list again), the agent, and the offset that it writes beside.
"""

import asyncio
import weakref
from collections.abc import Sequence
from pathlib import Path

import faust
import numpy as np
from faust.stores.rocksdb import DEFAULT_BLOCK_CACHE_SIZE
from faust.streams import _current_event
from faust.types import Message
from numpy.typing import NDArray

from benchmarks.peers.peer import CAP, Columns, Peer, Row, columns_of_rows
from benchmarks.peers.rocks import compacted_bytes

BLOCK_CACHE_BYTES: int = DEFAULT_BLOCK_CACHE_SIZE
_PARTITION = 0


class FaustTable(Peer):
    """One table value a user."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        app = faust.App("peers", broker="kafka://", store="rocksdb://", datadir=str(directory))
        table = app.Table("histories", default=list, partitions=1, options={"driver": "rocksdict"})
        self._store = table.data
        # The store asks the stream's current event for the partition, and the stream keeps it by a weak reference.
        self._event = faust.Event(app, None, None, {}, _message())
        _current_event.set(weakref.ref(self._event))

    def extend(self, user: str, events: NDArray[np.void]) -> None:
        """Write the user's list."""
        self._store[user] = events.tolist()

    def append(self, batch: Sequence[tuple[str, Row]]) -> None:
        """Read the list, add to it, cut it and write it back, an event at a time."""
        store = self._store
        for user, row in batch:
            events = store[user]
            events.append(row)
            store[user] = events[-CAP:]

    def read(self, user: str) -> Columns:
        """Read the list and turn it into columns."""
        return columns_of_rows(self._store[user])

    def settle(self) -> int:
        """Compact, and return the bytes of the SST files."""
        self.close()
        return compacted_bytes(self._store.partition_path(_PARTITION), self._store.rocksdb_options.as_options)

    def close(self) -> None:
        """Close the database; the store opens it again when it is next needed."""
        asyncio.run(self._store.stop())


def _message() -> Message:
    return Message("actions", _PARTITION, 0, 0.0, 0, [], None, None, None)
