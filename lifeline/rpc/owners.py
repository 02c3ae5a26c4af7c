"""The owner and the standbys of each partition, as the group's leader last assigned them."""

import socket
import threading
from collections.abc import Mapping, Sequence

from lifeline.rpc.settings import EVERYWHERE, NodeSettings
from lifeline.stream.placement import NO_PLACEMENT, Placement
from lifeline.v1 import group_pb2


class Owners:
    """Holds the current placement. Every method may be called from any thread."""

    def __init__(self, partitions: int, own_address: str = "") -> None:
        """`partitions` is the topic's number of partitions; `own_address` is set once the node listens."""
        self.partitions = partitions
        self.own_address = own_address
        """host:port at which other nodes and callers reach this node."""
        self._placement: Placement = NO_PLACEMENT
        self._lock = threading.Lock()

    def update(self, placement: Placement) -> None:
        """Use a new placement from the group's leader."""
        with self._lock:
            self._placement = placement

    def leave(self) -> None:
        """Remove this node: it has left the group, and the next owners of its partitions are not known here."""
        with self._lock:
            owners = {number: owner for number, owner in self._placement.owners.items() if owner != self.own_address}
            self._placement = self._placement._replace(owners=owners)

    def owner_of(self, partition: int) -> str:
        """Return the address of a partition's owner; empty while it is unknown."""
        with self._lock:
            return self._placement.owners.get(partition, "")

    def addresses(self) -> frozenset[str]:
        """Return the addresses of all owners."""
        with self._lock:
            owners: Mapping[int, str] = self._placement.owners
        return frozenset(owners.values())

    def placements(self) -> Sequence[group_pb2.PlacedPartition]:
        """Return owner and standbys of every partition, ascending."""
        with self._lock:
            placement = self._placement
        return [
            group_pb2.PlacedPartition(partition=number, owner=owner, standbys=placement.standbys.get(number, ()))
            for number, owner in sorted(placement.owners.items())
        ]


def advertised_address(settings: NodeSettings, bound: str) -> str:
    """Return the address to advertise: the configured one, else the bound host:port.

    Where the server listens on all interfaces, the host is this machine's name.
    """
    if settings.advertised_address:
        return settings.advertised_address
    host, _, port = bound.rpartition(":")
    return f"{socket.gethostname()}:{port}" if host in EVERYWHERE else bound
