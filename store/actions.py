"""Actions as columns: what a micro-batch of the log looks like to the store.

The identity of an event inside a sequence is (timestamp_ms, item_id, action_type, surface). Action type
and surface travel as one number, ``code = action_type << 8 | surface``.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

MAX_USER_ID_BYTES = 256


class Kind(IntEnum):
    """Which of a user's sequences an event belongs to; the number is part of the format on disk."""

    EXPLICIT = 0
    IMPRESSION = 1


class Identity(NamedTuple):
    """What makes an event this event; tuples compare in the order of a sequence."""

    timestamp_ms: int
    item_id: int
    code: int


@dataclass(frozen=True, slots=True)
class ActionBatch:
    """Actions in order of arrival, one row an action.

    `user_ids` holds UTF-8 bytes; the columns are int64, uint64, uint16 and uint8 of the same length.
    """

    user_ids: list[bytes]
    timestamp_ms: NDArray[np.int64]
    item_id: NDArray[np.uint64]
    code: NDArray[np.uint16]
    kind: NDArray[np.uint8]

    def __post_init__(self) -> None:
        rows = {
            len(self.user_ids),
            *(len(c) for c in (self.timestamp_ms, self.item_id, self.code, self.kind)),
        }
        if len(rows) != 1:
            raise ValueError(f"the columns of an ActionBatch differ in length: {sorted(rows)}")
        if len(self.kind) and int(self.kind.max()) >= len(Kind):
            raise ValueError(f"{int(self.kind.max())} is not a Kind: use those of Kind")

    def __len__(self) -> int:
        return len(self.user_ids)

    @classmethod
    def empty(cls) -> Self:
        """Return a batch without rows: applying it moves the applied offset alone."""
        return cls(
            [],
            np.empty(0, np.int64),
            np.empty(0, np.uint64),
            np.empty(0, np.uint16),
            np.empty(0, np.uint8),
        )

    @classmethod
    def of(
        cls,
        user_ids: list[bytes],
        timestamp_ms: NDArray[np.int64],
        item_id: NDArray[np.uint64],
        action_type: NDArray[np.uint8],
        surface: NDArray[np.uint8],
        kind: NDArray[np.uint8],
    ) -> Self:
        """Build a batch from columns that have action type and surface apart."""
        return cls(user_ids, timestamp_ms, item_id, pack_code(action_type, surface), kind)


def pack_code(action_type: NDArray[np.uint8], surface: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """Return ``action_type << 8 | surface`` as uint16[n]."""
    return (action_type.astype(np.uint16) << np.uint16(8)) | surface
