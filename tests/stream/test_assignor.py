from typing import Any, cast

from aiokafka.cluster import ClusterMetadata
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment, ConsumerProtocolMemberMetadata

from lifeline.stream.assignor import LifelineAssignor, decode_member, decode_placement, encode_member
from lifeline.stream.placement import NO_PLACEMENT, LocalPartition, Member, Placement
from lifeline.v1.group_pb2 import GroupMember, GroupPlacement, PlacedPartition
from lifeline.v1.group_pb2 import LocalPartition as LocalPartitionMessage


class Cluster:
    def __init__(self, partitions: set[int] | None) -> None:
        self._partitions = partitions

    def partitions_for_topic(self, topic: str) -> set[int] | None:
        assert topic == "actions"
        return self._partitions


def assign(members: dict[str, bytes], partitions: set[int] | None, replicas: int = 0) -> dict[str, Any]:
    assignor = LifelineAssignor("actions", 4, replicas, lambda: Member("leader:1", {}))
    metadata = {name: ConsumerProtocolMemberMetadata(0, ["actions"], data) for name, data in members.items()}
    return assignor.assign(cast("ClusterMetadata", Cluster(partitions)), metadata)


def test_a_member_is_asked_at_every_join() -> None:
    members = [Member("a:1", {}), Member("a:1", {2: LocalPartition(9, owned=True)})]
    assignor = LifelineAssignor("actions", 4, 0, lambda: members.pop(0))
    joins = [assignor.metadata(["actions"]) for _ in range(2)]
    assert [decode_member(member.user_data).partitions for member in joins] == [{}, {2: LocalPartition(9, owned=True)}]
    assert joins[0].subscription == ["actions"]


def test_everyone_is_told_its_partitions_what_it_follows_and_where_the_rest_is() -> None:
    members = {
        "m1": encode_member(Member("a:1", {0: LocalPartition(5, owned=True), 1: LocalPartition(5, owned=False)})),
        "m2": encode_member(Member("b:2", {1: LocalPartition(8, owned=True)})),
    }
    assignments = assign(members, {0, 1}, replicas=1)
    # As it comes over the wire.
    assignments = {
        name: ConsumerProtocolMemberAssignment.decode(assignment.encode()) for name, assignment in assignments.items()
    }
    assert [(tp.topic, tp.partition) for tp in assignments["m1"].partitions()] == [("actions", 0)]
    assert [(tp.topic, tp.partition) for tp in assignments["m2"].partitions()] == [("actions", 1)]
    assignor = LifelineAssignor("actions", 4, 0, lambda: Member("a:1", {}))
    assert assignor.placement == NO_PLACEMENT
    assignor.on_assignment(assignments["m1"])
    assert assignor.placement == Placement({0: "a:1", 1: "b:2"}, {0: ("b:2",), 1: ("a:1",)}, frozenset({1}))


def test_partitions_that_were_added_to_the_topic_are_nobodys() -> None:
    assignments = assign(
        {"m1": encode_member(Member("a:1", {6: LocalPartition(5, owned=False)})), "m2": b""}, set(range(8))
    )
    placed = sorted(tp.partition for assignment in assignments.values() for tp in assignment.partitions())
    assert placed == [0, 1, 2, 3]


def test_what_cannot_be_read_is_a_member_with_nothing_and_a_topic_not_known_gives_nothing() -> None:
    assignments = assign({"m1": b"\xff\xff\xff", "m2": b""}, {0, 1, 2})
    assert sorted(len(assignment.partitions()) for assignment in assignments.values()) == [1, 2]
    nothing = assign({"m1": b""}, None)
    assert nothing["m1"].partitions() == []
    assert decode_placement(b"\xff\xff\xff") == NO_PLACEMENT


def test_what_holds_too_much_counts_as_nothing_said() -> None:
    member = GroupMember(address="a:1", partitions=[LocalPartitionMessage(partition=1)] * 4_097)
    assert decode_member(member.SerializeToString()) == Member("", {})
    assert decode_member(GroupMember(address="x" * 261).SerializeToString()) == Member("", {})
    # Fields that nobody knows.
    assert decode_member(GroupMember(address="a:1").SerializeToString() + b"\x98\x01\x01" * (1 << 20)) == Member("", {})
    assert decode_placement(GroupPlacement(follow=[1] * 4_097).SerializeToString()) == NO_PLACEMENT
    placed = PlacedPartition(partition=1, owner="a:1", standbys=["b:1"] * 9)
    assert decode_placement(GroupPlacement(partitions=[placed]).SerializeToString()) == NO_PLACEMENT
