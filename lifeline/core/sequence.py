"""The query and the result of a read."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Flag, auto
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lifeline.core.actions import Identity, Kind, pack_code

EMBEDDING_DIM = 32


class Column(Flag):
    """Columns of a sequence; a read decodes only the requested ones."""

    TIMESTAMP_MS = auto()
    ITEM_ID = auto()
    ACTION_TYPE = auto()
    SURFACE = auto()
    EMBEDDING = auto()
    EVENT = TIMESTAMP_MS | ITEM_ID | ACTION_TYPE | SURFACE
    ALL = EVENT | EMBEDDING


class AsOf(NamedTuple):
    """The part of the log that a read reflects."""

    partition: int
    """The partition of the actions topic."""
    applied_offset: int
    """The last offset that the result includes; -1 before the first."""
    watermark_ms: int
    """The newest event time of the partition, in milliseconds since 1970; 0 before the first event.

    An event time counts at most as the broker's append time of its record."""
    lag_records: int = 0
    """Records known to be in the log that the result does not include yet."""


@dataclass(frozen=True, slots=True)
class SequenceQuery:
    """Which of a user's events a read returns: the newest `newest` of those that pass the filters."""

    kinds: tuple[Kind, ...] = (Kind.EXPLICIT,)
    newest: int | None = None
    from_timestamp_ms: int | None = None
    to_timestamp_ms: int | None = None
    action_types: frozenset[int] = frozenset()
    columns: Column = Column.EVENT


@dataclass(frozen=True, slots=True)
class Sequence:
    """Columns of n events of one kind, oldest first; a column that was not requested is None.

    timestamp_ms int64[n], item_id uint64[n], action_type uint8[n], surface uint8[n],
    embedding int8[n, 32] with a row of zeros where the item has none. `stored` is the number of events that
    the store keeps, before any filter.
    """

    length: int
    stored: int
    timestamp_ms: NDArray[np.int64] | None
    item_id: NDArray[np.uint64] | None
    action_type: NDArray[np.uint8] | None
    surface: NDArray[np.uint8] | None
    embedding: NDArray[np.int8] | None

    def identities(self) -> list[Identity]:
        """Return the identity of each event; raises ValueError unless the columns of Column.EVENT were read."""
        if self.timestamp_ms is None or self.item_id is None or self.action_type is None or self.surface is None:
            raise ValueError("an identity needs the columns of Column.EVENT: request them")
        codes = pack_code(self.action_type, self.surface)
        return [
            Identity(*row)
            for row in zip(self.timestamp_ms.tolist(), self.item_id.tolist(), codes.tolist(), strict=True)
        ]


class UserSequences(NamedTuple):
    """One consistent view of a user's sequences."""

    as_of: AsOf
    """The part of the log that it reflects."""
    sequences: Mapping[Kind, Sequence]
    """One for each requested kind."""
