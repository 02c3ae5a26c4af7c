"""This node's part in the group: it describes the node to the leader, and passes on the leader's placement."""

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from lifeline.stream.placement import LocalPartition, Member, Placement


class Holder(Protocol):
    """A holder of open stores: the updater or the standby follower."""

    def local_partitions(self) -> Mapping[int, LocalPartition]:
        """Return the stores that can be continued from their applied offset; callable from any thread."""

    def unusable_stores(self) -> frozenset[int]:
        """Return the partitions whose stores on this node must not be continued; callable from any thread."""


class Membership:
    """Describes this node to the group."""

    def __init__(
        self,
        holders: Iterable[Holder],
        *,
        address: Callable[[], str] = str,
        on_disk: Callable[[], Iterable[int]] = tuple,
        on_placement: Callable[[Placement], None] = lambda _: None,
    ) -> None:
        """`address` returns this node's host:port; `on_disk` returns the partitions with a directory on this node."""
        self._holders = tuple(holders)
        self._address, self._on_disk, self._on_placement = address, on_disk, on_placement

    def member(self) -> Member:
        """Return this node's description; called in the client's thread at every join."""
        # The applied offset of a closed store is unknown: opening the store would take longer than a join may.
        local = {number: LocalPartition(0, owned=False) for number in self._on_disk()}
        for holder in self._holders:
            local.update(holder.local_partitions())
        unusable = frozenset[int]().union(*(holder.unusable_stores() for holder in self._holders))
        for number in unusable:
            local.pop(number, None)
        return Member(self._address(), local)

    def on_placement(self, placement: Placement) -> None:
        """Pass the new placement on; called in the event loop, after the handler has its partitions."""
        self._on_placement(placement)
