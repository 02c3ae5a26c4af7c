"""Observers of the updater, the source of metrics: one call for each batch or rebalance, never for each record."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from lifeline.stream.decode import Decoded
from lifeline.stream.partition import PartitionState
from lifeline.stream.record import Record


class AppliedBatch(NamedTuple):
    """A batch that was applied."""

    partition: int
    records: Sequence[Record]
    """Ascending by offset, at least one."""
    bytes: int
    """Of their keys and values."""
    decoded: Decoded
    """What they asked of the store, and the dead letters among them."""
    erasures: int
    """Erasures among its steps."""
    seconds: float
    """From when the batch was taken until it was applied, its dead letters acknowledged."""
    was_serving: bool
    """Whether the partition had caught up before the batch, so that its actions were readable as they came."""


class Observer(Protocol):
    """Called by the updater, in its event loop; each method must return within microseconds."""

    def on_batch(self, batch: AppliedBatch) -> None:
        """Take note of a batch."""

    def on_revoked(self, partitions: frozenset[int]) -> None:
        """Take note that a rebalance began, which takes these partitions away first."""

    def on_assigned(self, partitions: frozenset[int]) -> None:
        """Take note that a rebalance ended, and left this node with exactly these partitions."""

    def on_state(self, partition: int, state: PartitionState) -> None:
        """Take note of a partition's change of state."""


class NoObserver:
    """Takes note of nothing."""

    def on_batch(self, batch: AppliedBatch) -> None:
        """Forget the batch."""

    def on_revoked(self, partitions: frozenset[int]) -> None:
        """Forget it."""

    def on_assigned(self, partitions: frozenset[int]) -> None:
        """Forget it."""

    def on_state(self, partition: int, state: PartitionState) -> None:
        """Forget it."""
