"""A peer: one way to hold users' lists of events, in a directory of its own."""

import struct
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

CAP = 16_384
# 18 bytes, which is what a struct of the same fields packs into.
EVENT = np.dtype([("timestamp_ms", "<i8"), ("item_id", "<u8"), ("action_type", "u1"), ("surface", "u1")])
PACKED = struct.Struct("<qQBB")

# A timestamp in ms, an item's id, a type and a surface.
Row = tuple[int, int, int, int]


class Columns(NamedTuple):
    """n events in order of arrival. They may be views of one buffer, so that no peer pays for a copy."""

    timestamp_ms: NDArray[np.int64]
    item_id: NDArray[np.uint64]
    action_type: NDArray[np.uint8]
    surface: NDArray[np.uint8]


class Peer(ABC):
    """The operations that are measured."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @abstractmethod
    def extend(self, user: str, events: NDArray[np.void]) -> None:
        """Give a new user all of `events` (EVENT[n]) at once; not timed."""

    @abstractmethod
    def append(self, batch: Sequence[tuple[str, Row]]) -> None:
        """Append the events of a batch, one at a time, to users who have a history."""

    @abstractmethod
    def read(self, user: str) -> Columns:
        """Return all events of a user."""

    @abstractmethod
    def settle(self) -> int:
        """Compact what can be compacted, and return the bytes held."""

    @abstractmethod
    def close(self) -> None:
        """Release all resources."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class PeerMissingError(Exception):
    """A peer needs a program that this machine lacks; the message says what to do."""


def columns_of(events: NDArray[np.void]) -> Columns:
    """Return the columns of EVENT[n], as views."""
    return Columns(events["timestamp_ms"], events["item_id"], events["action_type"], events["surface"])


def columns_of_rows(rows: Iterable[Sequence[int]]) -> Columns:
    """Return the columns of rows as JSON gives them."""
    table = np.array(rows, np.uint64)
    return Columns(
        table[:, 0].astype(np.int64), table[:, 1], table[:, 2].astype(np.uint8), table[:, 3].astype(np.uint8)
    )
