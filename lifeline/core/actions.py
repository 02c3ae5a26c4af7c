"""Actions as columns: a micro-batch of the log, as the store takes it.

The identity of an event inside a sequence is (timestamp_ms, item_id, action_type, surface). Action type
and surface are stored as one number, ``code = action_type << 8 | surface``.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Final, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

# 2100-01-01T00:00:00Z. A later time is an error, and must never become the watermark that ages are measured against.
MAX_TIMESTAMP_MS: Final = 4_102_444_800_000
NO_LOG_TIME: Final = -1


class Kind(IntEnum):
    """Which of a user's sequences an event belongs to; the number is part of the format on disk."""

    EXPLICIT = 0
    IMPRESSION = 1


class Identity(NamedTuple):
    """The identity of an event; identities compare in the order of a sequence."""

    timestamp_ms: int
    item_id: int
    code: int


@dataclass(frozen=True, slots=True)
class ActionBatch:
    """Actions in order of arrival, one row an action.

    `user_ids` holds UTF-8 bytes; the columns are int64, uint64, uint16, uint8 and int64 of the same length.
    `logged_ms` is the broker's append time of each action, or NO_LOG_TIME if the log has none; it bounds the
    watermark.
    Raises ValueError for columns of different lengths, an unknown kind, and an event time above MAX_TIMESTAMP_MS.
    """

    user_ids: list[bytes]
    timestamp_ms: NDArray[np.int64]
    item_id: NDArray[np.uint64]
    code: NDArray[np.uint16]
    kind: NDArray[np.uint8]
    logged_ms: NDArray[np.int64]

    def __post_init__(self) -> None:
        rows = {
            len(self.user_ids),
            *(len(c) for c in (self.timestamp_ms, self.item_id, self.code, self.kind, self.logged_ms)),
        }
        if len(rows) != 1:
            raise ValueError(f"the columns of an ActionBatch differ in length: {sorted(rows)}")
        if len(self.kind) and int(self.kind.max()) >= len(Kind):
            raise ValueError(f"{int(self.kind.max())} is not a Kind: use the values of Kind")
        if len(self.timestamp_ms) and (newest := int(self.timestamp_ms.max())) > MAX_TIMESTAMP_MS:
            raise ValueError(
                f"an action has timestamp_ms {newest}, after the year 2099: give milliseconds since 1970, at most "
                f"{MAX_TIMESTAMP_MS}"
            )

    def __len__(self) -> int:
        return len(self.user_ids)

    @property
    def watermark_ms(self) -> int:
        """The newest event time, where each counts at most as its action's `logged_ms`; the batch must not be empty.

        So no producer can move the watermark beyond the log's own clock. An action without a log time does not count.
        """
        return int(np.minimum(self.timestamp_ms, self.logged_ms).max())

    @classmethod
    def empty(cls) -> Self:
        """Return a batch without rows: applying it changes only the applied offset."""
        return cls(
            [],
            np.empty(0, np.int64),
            np.empty(0, np.uint64),
            np.empty(0, np.uint16),
            np.empty(0, np.uint8),
            np.empty(0, np.int64),
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
        logged_ms: NDArray[np.int64],
    ) -> Self:
        """Build a batch from separate columns of action type and surface."""
        return cls(user_ids, timestamp_ms, item_id, pack_code(action_type, surface), kind, logged_ms)


def pack_code(action_type: NDArray[np.uint8], surface: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """Return ``action_type << 8 | surface`` as uint16[n]."""
    return (action_type.astype(np.uint16) << np.uint16(8)) | surface
