"""The limit on the item ids that all open partitions of a process hold in memory.

Ids are never removed, because sequences hold their ordinals, and a producer can name any number of new items. Actions
that do not fit are not dropped: the state is a function of the log, and a node with more memory would keep them.
Instead the partition stops applying its log, with an error that names the cause.
"""

import threading

import numpy as np
from numpy.typing import NDArray

from lifeline.store.errors import ItemLimitError
from lifeline.store.id_index import IdIndex

ITEM_BYTES = 48
"""Most memory for one id: 24 bytes if its table is full, 48 if it has just grown (id_index.py)."""


class ItemBudget:
    """Counts the item ids of the open partitions. Every method may be called from any thread."""

    def __init__(self, limit: int | None) -> None:
        """`limit` is the most item ids to hold; None for no limit."""
        self.limit = limit
        self._used = 0
        self._lock = threading.Lock()

    @property
    def used(self) -> int:
        """Item ids in memory. An item counts once for each partition that has it."""
        return self._used

    def add(self, count: int) -> None:
        """Add `count` ids; a closing partition passes a negative count."""
        with self._lock:
            self._used += count

    def check(self, partition: int, known: IdIndex, item_id: NDArray[np.uint64]) -> None:
        """Raise ItemLimitError if the ids that `known` lacks do not fit. Reserves nothing.

        So partitions that check at the same time may exceed the limit together.
        """
        if self.limit is None or self._used + len(item_id) <= self.limit:
            return
        new = len(np.unique(item_id[known.find(item_id) < 0]))
        if new and self._used + new > self.limit:
            raise ItemLimitError(partition, self._used, new, self.limit)
