"""Limits on received messages: how much each field may hold.

First the size of the message is checked, then it is decoded (in C), then the length of each string, bytes and repeated
field is checked against its bound. Only then does Python read the values. docs/limits.md is generated from `BOUNDS`.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, Self, TypeVar, cast

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from lifeline.core.reasons import Reason
from lifeline.core.sequence import EMBEDDING_DIM
from lifeline.core.user_ids import MAX_USER_ID_BYTES
from lifeline.core.vocabulary import MAX_ACTION_TYPES
from lifeline.core.wire import COLUMNS, KINDS

MAX_CANDIDATES = 4_096
"""The upper bound of scorer.max_candidates."""
MAX_PARTITIONS = 4_096
"""The upper bound of kafka.partitions."""
MAX_STANDBY_REPLICAS = 8
"""The upper bound of updater.standby_replicas."""
UNKNOWN_BYTES = 1_024
"""Bytes in a message that fields of a later version may take."""
_NAME_BYTES = 255
_ADDRESS_BYTES = 260


class Bound(NamedTuple):
    """The bound of one field."""

    max_length: int
    """In entries for a repeated field, else in bytes."""
    description: str
    """What the number stands for, as in "the longest user id"."""
    max_entry_bytes: int = 0
    """The bound of each entry of a repeated string, in bytes."""
    reason: Reason = Reason.FIELD_INVALID


_USER_ID = Bound(MAX_USER_ID_BYTES, "the longest user id", reason=Reason.USER_ID_INVALID)
_NAME = Bound(_NAME_BYTES, "the longest name")
_ADDRESS = Bound(_ADDRESS_BYTES, "the longest host:port")
_PARTITIONS = Bound(MAX_PARTITIONS, "the upper bound of kafka.partitions")

BOUNDS: Mapping[str, Bound] = {
    "lifeline.v1.GetSequenceRequest.user_id": _USER_ID,
    "lifeline.v1.GetSequenceRequest.kinds": Bound(len(KINDS), "the number of kinds"),
    "lifeline.v1.GetSequenceRequest.action_types": Bound(MAX_ACTION_TYPES, "the largest number of action types"),
    "lifeline.v1.GetSequenceRequest.columns": Bound(len(COLUMNS), "the number of columns"),
    "lifeline.v1.ScoreRequest.user_id": _USER_ID,
    "lifeline.v1.ScoreRequest.item_id": Bound(
        MAX_CANDIDATES, "the upper bound of scorer.max_candidates", reason=Reason.CANDIDATES_INVALID
    ),
    "lifeline.v1.ScoreRequest.embedding": Bound(
        MAX_CANDIDATES * EMBEDDING_DIM, f"{EMBEDDING_DIM} for each candidate", reason=Reason.CANDIDATES_INVALID
    ),
    "lifeline.v1.CreateSnapshotRequest.partitions": _PARTITIONS,
    "lifeline.v1.UseModelRequest.version": Bound(_NAME_BYTES, "the longest directory name"),
    "lifeline.v1.GroupMember.address": _ADDRESS,
    "lifeline.v1.GroupMember.partitions": _PARTITIONS,
    "lifeline.v1.GroupPlacement.partitions": _PARTITIONS,
    "lifeline.v1.GroupPlacement.follow": _PARTITIONS,
    "lifeline.v1.PlacedPartition.owner": _ADDRESS,
    "lifeline.v1.PlacedPartition.standbys": Bound(
        MAX_STANDBY_REPLICAS, "the upper bound of updater.standby_replicas", max_entry_bytes=_ADDRESS_BYTES
    ),
    "grpc.health.v1.HealthCheckRequest.service": _NAME,
    "grpc.reflection.v1alpha.ServerReflectionRequest.host": _NAME,
    "grpc.reflection.v1alpha.ServerReflectionRequest.file_by_filename": _NAME,
    "grpc.reflection.v1alpha.ServerReflectionRequest.file_containing_symbol": _NAME,
    "grpc.reflection.v1alpha.ServerReflectionRequest.all_extension_numbers_of_type": _NAME,
    "grpc.reflection.v1alpha.ServerReflectionRequest.list_services": _NAME,
    "grpc.reflection.v1alpha.ExtensionRequest.containing_type": _NAME,
}
"""By the field's full name: every string, bytes and repeated field of a checked message needs a bound."""


class LimitExceededError(Exception):
    """A field exceeds its bound. Senders: shorten it."""

    def __init__(self, field: str, length: int, unit: str, bound: Bound) -> None:
        self.field, self.length, self.unit, self.bound = field, length, unit, bound
        limit = bound.max_entry_bytes if unit == "bytes" and bound.max_entry_bytes else bound.max_length
        super().__init__(f"it has {length:,} {unit}: send at most {limit:,}, {bound.description}")


class MessageLimits:
    """The limits of one message type. Safe in threads."""

    def __init__(self, descriptor: Descriptor) -> None:
        """Look up the bounds; raises KeyError for a field that needs a bound and has none."""
        self.descriptor = descriptor
        self._fields = [_Field(field) for field in descriptor.fields]
        self._checked = [field for field in self._fields if field.bound is not None or field.nested is not None]
        self.max_bytes = self._size() + UNKNOWN_BYTES
        """The largest size of a message whose fields are all within their bounds."""

    @classmethod
    def of(cls, message: Message | type[Message]) -> Self:
        """Return the limits of a message or message type."""
        return cls(cast("Descriptor", message.DESCRIPTOR))

    def check(self, message: Message, prefix: str = "") -> None:
        """Raise LimitExceededError for the first field that exceeds its bound; `prefix` precedes field names."""
        for field in self._checked:
            value: Any = getattr(message, field.name)
            if field.bound is not None:
                field.check(value, prefix)
            if field.nested is None:
                continue
            for part in value if field.is_repeated else (value,) if message.HasField(field.name) else ():
                field.nested.check(part, f"{prefix}{field.name}.")

    def rows(self) -> Iterable[tuple[str, str, Bound]]:
        """Yield (full name, unit, bound) for each bounded field, nested messages included."""
        for field in self._checked:
            if field.bound is not None:
                yield field.full_name, field.unit, field.bound
            if field.nested is not None:
                yield from field.nested.rows()

    def _size(self) -> int:
        return sum(field.max_bytes for field in self._fields)


_M = TypeVar("_M", bound=Message)


def decode_within_limits(kind: type[_M], data: bytes) -> _M:
    """Decode a message; raises DecodeError, and LimitExceededError if the message or a field is too large."""
    limits = MessageLimits.of(kind)
    if len(data) > limits.max_bytes:
        raise LimitExceededError(
            kind.DESCRIPTOR.name, len(data), "bytes", Bound(limits.max_bytes, "the largest message of this type")
        )
    message = kind.FromString(data)
    limits.check(message)
    return message


class _Field:
    """One field of a message type, and its bound."""

    def __init__(self, field: FieldDescriptor) -> None:
        self.name, self.full_name = field.name, field.full_name
        self.is_repeated: bool = field.is_repeated
        self.unit = "entries" if self.is_repeated else "bytes"
        self._is_text = field.type == FieldDescriptor.TYPE_STRING
        is_long = field.type in {FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES}
        self.bound = BOUNDS[field.full_name] if self.is_repeated or is_long else None
        if self.is_repeated and is_long and self.bound is not None and not self.bound.max_entry_bytes:
            raise KeyError(f"{field.full_name} is a repeated string: bound each entry too")
        self.nested = MessageLimits(field.message_type) if field.message_type is not None else None
        # The tag of a field number below 2,048, and the longest varint.
        entry = 2 + 10
        if is_long and self.bound is not None:
            entry += self.bound.max_entry_bytes or self.bound.max_length
        elif self.nested is not None:
            entry += self.nested.max_bytes - UNKNOWN_BYTES
        self.max_bytes = entry * (self.bound.max_length if self.is_repeated and self.bound is not None else 1)

    def check(self, value: Any, prefix: str) -> None:  # noqa: ANN401 - any field's value
        """Raise LimitExceededError if the value exceeds the bound."""
        bound = self.bound
        if bound is None:
            return
        length = len(value.encode()) if self._is_text and not self.is_repeated else len(value)
        if length > bound.max_length:
            raise LimitExceededError(prefix + self.name, length, self.unit, bound)
        if bound.max_entry_bytes:
            for entry in value:
                length = len(entry.encode() if self._is_text else entry)
                if length > bound.max_entry_bytes:
                    raise LimitExceededError(prefix + self.name, length, "bytes", bound)
