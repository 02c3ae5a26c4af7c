"""`quix_state`: Quix Streams' RocksDB state, the value a user's list of events.

The store, its transactions and its settings are Quix Streams' own, with its defaults: values in JSON by orjson,
an event as [timestamp, item, type, surface], which is shorter than an object. An append is `state.get` and
`state.set`; a batch is one transaction, as a checkpoint covers many messages, so a list that changes often in
it is written once. Left out are the changelog and the dataframe.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from quixstreams.state.rocksdb import RocksDBOptions, RocksDBStore

from benchmarks.peers.peer import CAP, Columns, Peer, Row, columns_of_rows
from benchmarks.peers.rocks import compacted_bytes

BLOCK_CACHE_BYTES: int = RocksDBOptions().block_cache_size
_PARTITION = 0
_KEY = "events"


class QuixState(Peer):
    """One state value a user."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._store = RocksDBStore(name="histories", stream_id="actions", base_dir=str(directory))
        self._path = Path(self._store.assign_partition(_PARTITION).path)

    def extend(self, user: str, events: NDArray[np.void]) -> None:
        """Write the user's list."""
        with self._store.start_partition_transaction(_PARTITION) as transaction:
            transaction.as_state(prefix=user.encode()).set(_KEY, events.tolist())

    def append(self, batch: Sequence[tuple[str, Row]]) -> None:
        """Get the list, add to it, cut it and set it, an event at a time, all in one transaction."""
        with self._store.start_partition_transaction(_PARTITION) as transaction:
            for user, row in batch:
                state = transaction.as_state(prefix=user.encode())
                events = state.get(_KEY, [])
                events.append(row)
                state.set(_KEY, events[-CAP:])

    def read(self, user: str) -> Columns:
        """Get the list and turn it into columns."""
        with self._store.start_partition_transaction(_PARTITION) as transaction:
            return columns_of_rows(transaction.as_state(prefix=user.encode()).get(_KEY))

    def settle(self) -> int:
        """Compact, and return the bytes of the SST files."""
        self._store.revoke_partition(_PARTITION)
        held = compacted_bytes(self._path, RocksDBOptions().to_options)
        self._store.assign_partition(_PARTITION)
        return held

    def close(self) -> None:
        """Close the database."""
        self._store.close()
