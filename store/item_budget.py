"""How many item ids the open partitions of a process may hold in memory, all together.

Ids never leave, for sequences hold their ordinals, and whoever may publish actions can name any number of new items.
What does not fit is no reason to drop actions: the state is a function of the log, and a node with more room would keep
them. So a partition takes nothing further, and says why.
"""

import threading

import numpy as np
from numpy.typing import NDArray

from lifeline.store.errors import ItemLimitError
from lifeline.store.id_index import IdIndex

ITEM_BYTES = 48
"""Memory for an id, at most: 24 where a table is full, 48 where it has just grown (id_index.py)."""


class ItemBudget:
    """Counts what the partitions have; every method may be called from any thread."""

    def __init__(self, most: int | None) -> None:
        """Without `most` there is no bound."""
        self.most = most
        self._used = 0
        self._lock = threading.Lock()

    @property
    def used(self) -> int:
        """Ids that open partitions hold; an item counts once in each partition where somebody acted on it."""
        return self._used

    def add(self, count: int) -> None:
        """Count ids that a partition has got, or below 0 those of one that is closed."""
        with self._lock:
            self._used += count

    def check(self, partition: int, known: IdIndex, item_id: NDArray[np.uint64]) -> None:
        """Raise ItemLimitError where the new ones of these ids have no room. Changes nothing.

        Partitions that are checked at the same time may each have what is left.
        """
        if self.most is None or self._used + len(item_id) <= self.most:
            return
        new = len(np.unique(item_id[known.find(item_id) < 0]))
        if new and self._used + new > self.most:
            raise ItemLimitError(partition, self._used, new, self.most)
