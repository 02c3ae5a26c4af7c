"""`raw` and `one_value`: a RocksDB value a user, its events packed one after the other.

An append reads the value, adds the event's bytes, cuts the value to the cap and writes it back. A read is one
get and one `np.frombuffer`. `one_value` packs 18 bytes an event; `raw` packs 50, as a layout does that keeps an
item's embedding beside every event on it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.peer import CAP, EVENT, PACKED, Columns, Row, columns_of
from benchmarks.peers.rocks import PlainPeer

EMBEDDING_BYTES = 32
RAW = np.dtype([("event", EVENT), ("embedding", f"V{EMBEDDING_BYTES}")])
_ZEROS = bytes(EMBEDDING_BYTES)


class OneValue(PlainPeer):
    """18 bytes an event: timestamp_ms i64, item_id u64, action_type u8, surface u8, little-endian."""

    event_bytes = EVENT.itemsize

    def extend(self, user: str, events: NDArray[np.void]) -> None:
        """Write the user's value."""
        self._database[user.encode()] = events.tobytes()

    def append(self, batch: Sequence[tuple[str, Row]]) -> None:
        """Read, add, cut and write back, an event at a time."""
        most = CAP * self.event_bytes
        for user, row in batch:
            key = user.encode()
            self._database[key] = (self.stored(key) + self.packed(row))[-most:]

    def packed(self, row: Row) -> bytes:
        """Return an event's bytes."""
        return PACKED.pack(*row)

    def read(self, user: str) -> Columns:
        """Get the value and look at it."""
        return columns_of(np.frombuffer(self.stored(user.encode()), EVENT))


class Raw(OneValue):
    """50 bytes an event: those 18, then the item's embedding int8[32]."""

    event_bytes = RAW.itemsize

    def __init__(self, directory: Path, embedding_of: Mapping[int, bytes]) -> None:
        super().__init__(directory)
        self._embedding_of = embedding_of

    def extend(self, user: str, events: NDArray[np.void]) -> None:
        """Write the user's value."""
        rows = np.empty(len(events), RAW)
        rows["event"] = events
        inline = b"".join(self._embedding_of.get(item, _ZEROS) for item in events["item_id"].tolist())
        rows["embedding"] = np.frombuffer(inline, RAW["embedding"])
        super().extend(user, rows)

    def packed(self, row: Row) -> bytes:
        """Return an event's bytes."""
        return super().packed(row) + self._embedding_of.get(row[1], _ZEROS)

    def read(self, user: str) -> Columns:
        """Get the value and look at it."""
        return columns_of(np.frombuffer(self.stored(user.encode()), RAW)["event"])
