"""`key_an_event`: a RocksDB key for every event of a user.

The key is the user's id, a zero byte, the timestamp (u64, big-endian) and a running number (u64, big-endian), so
that a user's keys lie together in order of time, and events of one moment in order of arrival. The value is the
18 packed bytes. A batch is one WriteBatch. A read iterates over the user's range and joins the values. No cap is
kept: to know that one is reached, it would have to count.
"""

import struct
from collections.abc import Sequence
from itertools import count
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rocksdict import ReadOptions, WriteBatch

from benchmarks.peers.peer import EVENT, PACKED, Columns, Row, columns_of
from benchmarks.peers.rocks import PlainPeer

_ORDER = struct.Struct(">QQ")


class KeyAnEvent(PlainPeer):
    """One key an event."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._numbers = count()

    def extend(self, user: str, events: NDArray[np.void]) -> None:
        """Write the user's keys."""
        self.append([(user, row) for row in events.tolist()])

    def append(self, batch: Sequence[tuple[str, Row]]) -> None:
        """Write one batch of keys."""
        written = WriteBatch(raw_mode=True)
        for user, row in batch:
            key = user.encode() + b"\0" + _ORDER.pack(row[0], next(self._numbers))
            written.put(key, PACKED.pack(*row))
        self._database.write(written)

    def read(self, user: str) -> Columns:
        """Iterate over the user's keys and join their values."""
        prefix = user.encode()
        options = ReadOptions()
        options.set_iterate_upper_bound(prefix + b"\1")
        values = self._database.values(from_key=prefix + b"\0", read_opt=options)
        return columns_of(np.frombuffer(b"".join(values), EVENT))
