"""Membership: what this node tells the group about itself, and who gets the placement that the leader decides."""

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from lifeline.stream.placement import LocalPartition, Member, Placement


class Holder(Protocol):
    """A holder of open stores: the updater or the standby follower."""

    def local(self) -> Mapping[int, LocalPartition]:
        """Return the stores that can continue from their applied offset; callable from any thread."""

    def spoiled(self) -> frozenset[int]:
        """Return the partitions whose stores on this node cannot; callable from any thread."""


class Membership:
    """One node's part in the group."""

    def __init__(
        self,
        holders: Iterable[Holder],
        *,
        address: Callable[[], str] = str,
        on_disk: Callable[[], Iterable[int]] = tuple,
        on_placement: Callable[[Placement], None] = lambda _: None,
    ) -> None:
        """`address` gives the host:port of this node; `on_disk` lists the partitions with a directory here."""
        self._holders = tuple(holders)
        self._address, self._on_disk, self._on_placement = address, on_disk, on_placement

    def member(self) -> Member:
        """Return what this node has; called in the client's thread at every join."""
        # The applied offset of a closed store is not known: opening it takes longer than a join may.
        local = {number: LocalPartition(0, owned=False) for number in self._on_disk()}
        for holder in self._holders:
            local.update(holder.local())
        spoiled = frozenset[int]().union(*(holder.spoiled() for holder in self._holders))
        for number in spoiled:
            local.pop(number, None)
        return Member(self._address(), local)

    def on_placement(self, placement: Placement) -> None:
        """Pass the new placement on; called in the event loop, after the handler has its partitions."""
        self._on_placement(placement)
