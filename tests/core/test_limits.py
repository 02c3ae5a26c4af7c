"""The bounds of fields, and that no message within them is refused."""

from typing import cast

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

from lifeline.core.limits import BOUNDS, LimitExceededError, MessageLimits
from lifeline.v1 import sequence_pb2
from lifeline.v1.group_pb2 import GroupMember, GroupPlacement, LocalPartition, PlacedPartition
from lifeline.v1.operator_pb2 import CreateSnapshotRequest
from lifeline.v1.score_pb2 import ScoreContext, ScoreRequest
from lifeline.v1.sequence_pb2 import GetSequenceRequest

# A negative number takes the most bytes: ten.
LARGEST: tuple[Message, ...] = (
    GetSequenceRequest(
        user_id="é" * 128,
        kinds=[cast("sequence_pb2.Kind.ValueType", -1)] * 2,
        newest=(1 << 32) - 1,
        from_timestamp_ms=-1,
        to_timestamp_ms=-1,
        action_types=[(1 << 32) - 1] * 64,
        columns=[cast("sequence_pb2.Column.ValueType", -1)] * 5,
        min_offset=-1,
    ),
    ScoreRequest(
        user_id="x" * 256,
        item_id=[(1 << 64) - 1] * 4_096,
        embedding=bytes(4_096 * 32),
        context=ScoreContext(timestamp_ms=-1, surface=1),
        min_offset=-1,
        explain=True,
        contributions=1,
    ),
    CreateSnapshotRequest(partitions=[-1] * 4_096),
    GroupMember(address="x" * 260, partitions=[LocalPartition(partition=-1, applied_offset=-1, owned=True)] * 4_096),
    GroupPlacement(
        partitions=[PlacedPartition(partition=-1, owner="x" * 260, standbys=["x" * 260] * 8)] * 4_096,
        follow=[-1] * 4_096,
    ),
)


@pytest.mark.parametrize("message", LARGEST, ids=lambda message: message.DESCRIPTOR.name)
def test_the_largest_message_within_the_bounds_passes(message: Message) -> None:
    limits = MessageLimits.of(message)
    limits.check(message)
    assert message.ByteSize() <= limits.max_bytes - 1_024


@pytest.mark.parametrize(
    ("message", "field", "says"),
    [
        (GetSequenceRequest(user_id="é" * 129), "user_id", "it has 258 bytes: send at most 256, the longest user id"),
        (
            GetSequenceRequest(kinds=[sequence_pb2.KIND_EXPLICIT] * 3),
            "kinds",
            "it has 3 entries: send at most 2, the number of kinds",
        ),
        (GetSequenceRequest(action_types=[1] * 65), "action_types", "it has 65 entries: send at most 64"),
        (GetSequenceRequest(columns=[sequence_pb2.COLUMN_ITEM_ID] * 6), "columns", "it has 6 entries: send at most 5"),
        (ScoreRequest(item_id=[1] * 4_097), "item_id", "it has 4,097 entries: send at most 4,096"),
        (ScoreRequest(embedding=bytes(131_073)), "embedding", "it has 131,073 bytes: send at most 131,072"),
        (
            GroupPlacement(partitions=[PlacedPartition(owner="x" * 261)]),
            "partitions.owner",
            "it has 261 bytes: send at most 260",
        ),
        (
            GroupPlacement(partitions=[PlacedPartition(), PlacedPartition(standbys=["", "x" * 261])]),
            "partitions.standbys",
            "it has 261 bytes: send at most 260",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_field_that_holds_too_much_is_named_with_its_length_and_its_bound(
    message: Message, field: str, says: str
) -> None:
    with pytest.raises(LimitExceededError) as caught:
        MessageLimits.of(message).check(message)
    assert caught.value.field == field
    assert says in str(caught.value)


def made(*fields: descriptor_pb2.FieldDescriptorProto) -> Descriptor:
    """Return the descriptor of a message that nobody has seen before."""
    file = descriptor_pb2.FileDescriptorProto(name="made.proto", package="made", syntax="proto3")
    file.message_type.add(name="Made", field=fields)
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return pool.FindMessageTypeByName("made.Made")


FIELD = descriptor_pb2.FieldDescriptorProto


@pytest.mark.parametrize(
    ("kind", "label"),
    [
        (FIELD.TYPE_STRING, FIELD.LABEL_OPTIONAL),
        (FIELD.TYPE_BYTES, FIELD.LABEL_OPTIONAL),
        (FIELD.TYPE_INT32, FIELD.LABEL_REPEATED),
    ],
)
def test_a_new_field_needs_a_bound(
    kind: FIELD.Type.ValueType, label: FIELD.Label.ValueType, monkeypatch: pytest.MonkeyPatch
) -> None:
    descriptor = made(FIELD(name="new", number=1, type=kind, label=label))
    with pytest.raises(KeyError, match=r"made\.Made\.new"):
        MessageLimits(descriptor)
    monkeypatch.setitem(BOUNDS, "made.Made.new", BOUNDS["lifeline.v1.ScoreRequest.item_id"])
    assert MessageLimits(descriptor).max_bytes > 4_096


def test_each_entry_of_a_repeated_text_needs_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BOUNDS, "made.Made.new", BOUNDS["lifeline.v1.ScoreRequest.item_id"])
    with pytest.raises(KeyError, match="bound each entry too"):
        MessageLimits(made(FIELD(name="new", number=1, type=FIELD.TYPE_STRING, label=FIELD.LABEL_REPEATED)))
