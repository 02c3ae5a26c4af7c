"""The group's partition assignor: it carries `stream.placement` in Kafka's consumer protocol.

Each member describes itself to the leader by a `lifeline.v1.GroupMember`, and receives a `lifeline.v1.GroupPlacement`.
Both are user data of the protocol, which brokers do not interpret.
"""

from collections.abc import Callable, Iterable, Mapping

import structlog
from aiokafka.cluster import ClusterMetadata
from aiokafka.coordinator.assignors.abstract import AbstractPartitionAssignor
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment, ConsumerProtocolMemberMetadata
from google.protobuf.message import DecodeError

from lifeline.core.limits import LimitExceededError, decode_within_limits
from lifeline.stream.placement import NO_PLACEMENT, LocalPartition, Member, Placement, place
from lifeline.v1 import group_pb2

_VERSION = 0

_log = structlog.get_logger(__name__)


class LifelineAssignor(AbstractPartitionAssignor):  # type: ignore[misc, unused-ignore]
    """One member's assignor. The client calls it in its own thread."""

    name = "lifeline"

    def __init__(self, topic: str, partitions: int, standby_replicas: int, member: Callable[[], Member]) -> None:
        """Place the first `partitions` partitions; any others were added to the topic, and no store is for them.

        `member` describes this member; it is called at every join, in the client's thread.
        """
        self._topic, self._partitions = topic, partitions
        self._standby_replicas, self._member = standby_replicas, member
        self.placement: Placement = NO_PLACEMENT
        """The placement of the last assignment."""
        self.is_placed_by_leader = True
        """Whether a node placed the partitions of the last assignment; if not, the broker did."""

    def metadata(self, topics: Iterable[str]) -> ConsumerProtocolMemberMetadata:  # type: ignore[override, unused-ignore]
        """Return this member's subscription, with its description as user data."""
        return ConsumerProtocolMemberMetadata(_VERSION, list(topics), encode_member(self._member()))

    def assign(  # type: ignore[override, unused-ignore]
        self, cluster: ClusterMetadata, members: Mapping[str, ConsumerProtocolMemberMetadata]
    ) -> dict[str, ConsumerProtocolMemberAssignment]:
        """Place the topic's partitions; the client calls this only on the group's leader."""
        partitions = {number for number in cluster.partitions_for_topic(self._topic) or () if number < self._partitions}
        if not partitions:
            _log.warning("the cluster does not know the topic: no member gets a partition", topic=self._topic)
        known = {member: decode_member(bytes(metadata.user_data or b"")) for member, metadata in members.items()}
        places = place(known, partitions, self._standby_replicas)
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
        """Store the placement; the client calls this before it reports this member's partitions."""
        self.is_placed_by_leader = bool(assignment.user_data)
        self.placement = decode_placement(bytes(assignment.user_data or b""))


def encode_member(member: Member) -> bytes:
    """Serialize a member as the user data of a subscription."""
    return group_pb2.GroupMember(
        address=member.address,
        partitions=[
            group_pb2.LocalPartition(partition=number, applied_offset=local.applied_offset, owned=local.owned)
            for number, local in sorted(member.partitions.items())
        ],
    ).SerializeToString()


def decode_member(data: bytes) -> Member:
    """Parse the user data of a subscription; an invalid one counts as a member without stores."""
    try:
        member = decode_within_limits(group_pb2.GroupMember, data)
    except (DecodeError, LimitExceededError):
        _log.warning("the user data of a group member is invalid: the member is treated as one without stores")
        return Member("", {})
    return Member(
        member.address,
        {local.partition: LocalPartition(local.applied_offset, local.owned) for local in member.partitions},
    )


def decode_placement(data: bytes) -> Placement:
    """Parse the user data of an assignment; NO_PLACEMENT when it is invalid."""
    try:
        placement = decode_within_limits(group_pb2.GroupPlacement, data)
    except (DecodeError, LimitExceededError):
        _log.warning("the placement of the group's leader is invalid: the owners of partitions are unknown")
        return NO_PLACEMENT
    return Placement(
        owners={place.partition: place.owner for place in placement.partitions},
        standbys={place.partition: tuple(place.standbys) for place in placement.partitions},
        follow=frozenset(placement.follow),
    )
