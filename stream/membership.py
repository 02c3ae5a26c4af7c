"""Membership: what this node says of itself to the group, and what it does with the places that it is told."""

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from lifeline.stream.placement import LocalPartition, Member, Placement


class Holder(Protocol):
    """Who has stores of partitions open: the updater and the standby follower."""

    def local(self) -> Mapping[int, LocalPartition]:
        """Return the stores that can go on from where they are; callable from any thread."""

    def spoiled(self) -> frozenset[int]:
        """Return the partitions whose stores here cannot; callable from any thread."""


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
        """`address` gives host:port at which others reach this node; `on_disk` lists what has a directory here."""
        self._holders = tuple(holders)
        self._address, self._on_disk, self._on_placement = address, on_disk, on_placement

    def member(self) -> Member:
        """Say what this node has; called in the client's thread at every join."""
        # How far a store on the disk is, is known once it is opened, and that takes longer than a join may.
        local = {number: LocalPartition(0, owned=False) for number in self._on_disk()}
        for holder in self._holders:
            local.update(holder.local())
        spoiled = frozenset[int]().union(*(holder.spoiled() for holder in self._holders))
        return Member(self._address(), {number: one for number, one in local.items() if number not in spoiled})

    def on_placement(self, placement: Placement) -> None:
        """Take note of where everything is now; called in the event loop, after the handler has its partitions."""
        self._on_placement(placement)
