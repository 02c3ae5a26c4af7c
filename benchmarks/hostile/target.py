"""The target of the attacks: one node, its topics, and the ids of hostile users."""

from typing import Final, NamedTuple

from lifeline.config import Settings
from lifeline.core.partitioner import partition_of

HOSTILE_USERS: Final = 64


class Target(NamedTuple):
    """A node's addresses and topics; it can be passed to another process."""

    bootstrap_server: str
    actions_topic: str
    items_topic: str
    partitions: int
    items_partitions: int
    grpc_address: str
    http_address: str

    @classmethod
    def of(cls, settings: Settings) -> "Target":
        """Return the target for a node with these settings."""
        kafka, node = settings.kafka, settings.node
        return cls(
            kafka.servers[0],
            kafka.actions_topic,
            kafka.items_topic,
            kafka.partitions,
            kafka.items_partitions,
            node.grpc_address,
            node.http_address,
        )

    def partition_of(self, key: bytes) -> int:
        """Return the partition of the actions topic that a key belongs to."""
        return partition_of(key, self.partitions)


def hostile_user(number: int) -> str:
    """Return a user id that no honest caller uses."""
    return f"hostile-{number % HOSTILE_USERS:03d}"
