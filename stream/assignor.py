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
        """`member` says what this member has now; it is asked at every join, in the client's thread."""
        self._topic, self._standby_replicas, self._member = topic, standby_replicas, member
        self.placement: Placement = NOWHERE
        """What the last assignment told."""

    def metadata(self, topics: Iterable[str]) -> ConsumerProtocolMemberMetadata:  # type: ignore[override, unused-ignore]
        """Say what this member has."""
        return ConsumerProtocolMemberMetadata(_VERSION, list(topics), encode_member(self._member()))

    def assign(  # type: ignore[override, unused-ignore]
        self, cluster: ClusterMetadata, members: Mapping[str, ConsumerProtocolMemberMetadata]
    ) -> dict[str, ConsumerProtocolMemberAssignment]:
        """Place the topic's partitions; called in the group's leader alone."""
        partitions = cluster.partitions_for_topic(self._topic)
        if not partitions:
            _log.warning("the cluster does not know the topic: nobody gets a partition", topic=self._topic)
        known = {member: decode_member(bytes(one.user_data or b"")) for member, one in members.items()}
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
        """Take note of where everything is, before the client tells what is ours."""
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
    """Read the user data of a subscription; of what is none of ours, a member with nothing."""
    try:
        found = decode_within_limits(group_pb2.GroupMember, data)
    except (DecodeError, LimitExceededError):
        _log.warning("a member of the group says nothing that can be read: it counts as one with nothing on its disk")
        return Member("", {})
    return Member(
        found.address, {one.partition: LocalPartition(one.applied_offset, one.owned) for one in found.partitions}
    )


def decode_placement(data: bytes) -> Placement:
    """Read the user data of an assignment; NOWHERE of what is none of ours."""
    try:
        found = decode_within_limits(group_pb2.GroupPlacement, data)
    except (DecodeError, LimitExceededError):
        _log.warning("the group's leader told nothing that can be read: who owns what is not known")
        return NOWHERE
    return Placement(
        owners={one.partition: one.owner for one in found.partitions},
        standbys={one.partition: tuple(one.standbys) for one in found.partitions},
        follow=frozenset(found.follow),
    )
