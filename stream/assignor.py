"""The assignor of our group: `stream.placement` in Kafka's consumer protocol.

Each member says of itself what `lifeline.v1.GroupMember` has, and is told what `lifeline.v1.GroupPlacement` has; both
are user data of the protocol, which brokers and their tools pass on unread.
"""

from collections.abc import Callable, Iterable, Mapping

import structlog
from aiokafka.cluster import ClusterMetadata
from aiokafka.coordinator.assignors.abstract import AbstractPartitionAssignor
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment, ConsumerProtocolMemberMetadata
from google.protobuf.message import DecodeError

from lifeline.core.limits import LimitExceededError, decode_within_limits
from lifeline.stream.placement import NOWHERE, LocalPartition, Member, Placement, place
from lifeline.v1 import group_pb2

_VERSION = 0

_log = structlog.get_logger(__name__)


class LifelineAssignor(AbstractPartitionAssignor):  # type: ignore[misc, unused-ignore]
    """One member's assignor. The client calls it in its own thread."""

    name = "lifeline"

    def __init__(self, topic: str, standby_replicas: int, member: Callable[[], Member]) -> None:
        """`member` returns what this member has; it is called at every join, in the client's thread."""
        self._topic, self._standby_replicas, self._member = topic, standby_replicas, member
        self.placement: Placement = NOWHERE
        """The placement of the last assignment."""

    def metadata(self, topics: Iterable[str]) -> ConsumerProtocolMemberMetadata:  # type: ignore[override, unused-ignore]
        """Return this member's subscription, with what it has."""
        return ConsumerProtocolMemberMetadata(_VERSION, list(topics), encode_member(self._member()))

    def assign(  # type: ignore[override, unused-ignore]
        self, cluster: ClusterMetadata, members: Mapping[str, ConsumerProtocolMemberMetadata]
    ) -> dict[str, ConsumerProtocolMemberAssignment]:
        """Place the topic's partitions; only the group's leader is asked."""
        partitions = cluster.partitions_for_topic(self._topic)
        if not partitions:
            _log.warning("the cluster does not know the topic: nobody gets a partition", topic=self._topic)
        known = {member: decode_member(bytes(metadata.user_data or b"")) for member, metadata in members.items()}
        places = place(known, partitions or (), self._standby_replicas)
        placed = [
            group_pb2.PlacedPartition(
                partition=number,
                owner=known[where.owner].address,
                standbys=[known[member].address for member in where.standbys],
            )
            for number, where in places.items()
        ]
        return {
            member: ConsumerProtocolMemberAssignment(
                _VERSION,
                [(self._topic, [number for number, where in places.items() if where.owner == member])],
                group_pb2.GroupPlacement(
                    partitions=placed,
                    follow=[number for number, where in places.items() if member in where.standbys],
                ).SerializeToString(),
            )
            for member in members
        }

    def on_assignment(self, assignment: ConsumerProtocolMemberAssignment) -> None:  # type: ignore[override, unused-ignore]
        """Keep the placement; the client calls this before it announces our partitions."""
        self.placement = decode_placement(bytes(assignment.user_data or b""))


def encode_member(member: Member) -> bytes:
    """Return the user data of a subscription."""
    return group_pb2.GroupMember(
        address=member.address,
        partitions=[
            group_pb2.LocalPartition(partition=number, applied_offset=local.applied_offset, owned=local.owned)
            for number, local in sorted(member.local.items())
        ],
    ).SerializeToString()


def decode_member(data: bytes) -> Member:
    """Read the user data of a subscription; a member without stores when it cannot be read."""
    try:
        member = decode_within_limits(group_pb2.GroupMember, data)
    except (DecodeError, LimitExceededError):
        _log.warning("the user data of a group member cannot be read: it is treated as a member without stores")
        return Member("", {})
    return Member(
        member.address,
        {local.partition: LocalPartition(local.applied_offset, local.owned) for local in member.partitions},
    )


def decode_placement(data: bytes) -> Placement:
    """Read the user data of an assignment; NOWHERE when it cannot be read."""
    try:
        placement = decode_within_limits(group_pb2.GroupPlacement, data)
    except (DecodeError, LimitExceededError):
        _log.warning("the group leader's placement cannot be read: the owners of partitions are not known")
        return NOWHERE
    return Placement(
        owners={place.partition: place.owner for place in placement.partitions},
        standbys={place.partition: tuple(place.standbys) for place in placement.partitions},
        follow=frozenset(placement.follow),
    )
