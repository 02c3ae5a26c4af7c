"""Owners: which node has which partition, as the group's leader told last."""

import socket
import threading
from collections.abc import Mapping, Sequence

from lifeline.rpc.settings import EVERYWHERE, NodeSettings
from lifeline.stream.placement import NOWHERE, Placement
from lifeline.v1 import group_pb2


class Owners:
    """The last placement. Every method may be called from any thread."""

    def __init__(self, partitions: int, own_address: str = "") -> None:
        """`partitions` is how many the topic has; `own_address` is set once the node listens."""
        self.partitions = partitions
        self.own_address = own_address
        """host:port at which others reach this node."""
        self._placement: Placement = NOWHERE
        self._lock = threading.Lock()

    def update(self, placement: Placement) -> None:
        """Take the group's word for where everything is now."""
        with self._lock:
            self._placement = placement

    def owner_of(self, partition: int) -> str:
        """Return the address of a partition's owner; empty while it is not known."""
        with self._lock:
            return self._placement.owners.get(partition, "")

    def addresses(self) -> frozenset[str]:
        """Return the addresses of all owners."""
        with self._lock:
            owners: Mapping[int, str] = self._placement.owners
        return frozenset(owners.values())

    def placements(self) -> Sequence[group_pb2.PlacedPartition]:
        """Return where every partition is, ascending."""
        with self._lock:
            placement = self._placement
        return [
            group_pb2.PlacedPartition(partition=number, owner=owner, standbys=placement.standbys.get(number, ()))
            for number, owner in sorted(placement.owners.items())
        ]


def advertised_address(settings: NodeSettings, bound: str) -> str:
    """Return what others are told: what is configured, else the bound host:port, with a name for "all interfaces"."""
    if settings.advertised_address:
        return settings.advertised_address
    host, _, port = bound.rpartition(":")
    return f"{socket.gethostname()}:{port}" if host in EVERYWHERE else bound
