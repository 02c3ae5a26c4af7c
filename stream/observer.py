"""Observers of the updater, for metrics. They are called for each batch and rebalance, never for each record."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from lifeline.stream.decode import DecodedBatch
from lifeline.stream.partition import PartitionState
from lifeline.stream.record import Record


class AppliedBatch(NamedTuple):
    """A batch that was applied."""

    partition: int
    records: Sequence[Record]
    """Ascending by offset, at least one."""
    bytes: int
    """Bytes of their keys and values."""
    decoded: DecodedBatch
    """Their steps, and the dead letters among them."""
    erasures: int
    """Erasures among the steps."""
    seconds: float
    """From when the batch left the queue until it was applied, with the acknowledgement of its dead letters."""
    was_serving: bool
    """Whether the partition had caught up before the batch, so that its actions were readable as they came."""


class Observer(Protocol):
    """The updater calls it in its event loop; each method must return within microseconds."""

    def on_batch(self, batch: AppliedBatch) -> None:
        """Record a batch that was applied."""

    def on_revoked(self, partitions: frozenset[int]) -> None:
        """Record that a rebalance begins, which revokes these partitions."""

    def on_assigned(self, partitions: frozenset[int]) -> None:
        """Record that a rebalance has ended, and this node owns exactly these partitions."""

    def on_state(self, partition: int, state: PartitionState) -> None:
        """Record a partition's change of state."""

    def on_closed(self, partition: int) -> None:
        """Record that this node has closed a partition, which another node owns now."""


class NoObserver:
    """An observer that ignores everything."""

    def on_batch(self, batch: AppliedBatch) -> None:
        """Do nothing."""

    def on_revoked(self, partitions: frozenset[int]) -> None:
        """Do nothing."""

    def on_assigned(self, partitions: frozenset[int]) -> None:
        """Do nothing."""

    def on_state(self, partition: int, state: PartitionState) -> None:
        """Do nothing."""

    def on_closed(self, partition: int) -> None:
        """Do nothing."""


class Observers:
    """Passes everything on to several observers."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = tuple(observers)

    def on_batch(self, batch: AppliedBatch) -> None:
        """Pass it on."""
        for observer in self._observers:
            observer.on_batch(batch)

    def on_revoked(self, partitions: frozenset[int]) -> None:
        """Pass it on."""
        for observer in self._observers:
            observer.on_revoked(partitions)

    def on_assigned(self, partitions: frozenset[int]) -> None:
        """Pass it on."""
        for observer in self._observers:
            observer.on_assigned(partitions)

    def on_state(self, partition: int, state: PartitionState) -> None:
        """Pass it on."""
        for observer in self._observers:
            observer.on_state(partition, state)

    def on_closed(self, partition: int) -> None:
        """Pass it on."""
        for observer in self._observers:
            observer.on_closed(partition)
