"""Limits of messages that others send: how much each field may hold, looked at before anything else is done with it.

A message is first measured in bytes, then decoded (in C), then each text, bytes and repeated field is compared with its
bound; only then does Python go through what is in it. docs/limits.md is made from the table.
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
"""The most that scorer.max_candidates may be."""
MAX_PARTITIONS = 4_096
"""The most that kafka.partitions may be."""
MAX_STANDBY_REPLICAS = 8
"""The most that updater.standby_replicas may be."""
UNKNOWN_BYTES = 1_024
"""Room in a message for fields of a later version."""
_NAME_BYTES = 255
_ADDRESS_BYTES = 260


class Bound(NamedTuple):
    """How much one field may hold."""

    max_length: int
    """Entries of a repeated field, else bytes."""
    description: str
    """What so many are."""
    max_entry_bytes: int = 0
    """Bytes of each entry of a repeated text."""
    reason: Reason = Reason.FIELD_INVALID


_USER_ID = Bound(MAX_USER_ID_BYTES, "the longest user id", reason=Reason.USER_ID_INVALID)
_NAME = Bound(_NAME_BYTES, "the longest name")
_ADDRESS = Bound(_ADDRESS_BYTES, "the longest host:port")
_PARTITIONS = Bound(MAX_PARTITIONS, "the most that kafka.partitions may be")

BOUNDS: Mapping[str, Bound] = {
    "lifeline.v1.GetSequenceRequest.user_id": _USER_ID,
    "lifeline.v1.GetSequenceRequest.kinds": Bound(len(KINDS), "the kinds there are"),
    "lifeline.v1.GetSequenceRequest.action_types": Bound(MAX_ACTION_TYPES, "the action types there can be"),
    "lifeline.v1.GetSequenceRequest.columns": Bound(len(COLUMNS), "the columns there are"),
    "lifeline.v1.ScoreRequest.user_id": _USER_ID,
    "lifeline.v1.ScoreRequest.item_id": Bound(
        MAX_CANDIDATES, "the most that scorer.max_candidates may be", reason=Reason.CANDIDATES_INVALID
    ),
    "lifeline.v1.ScoreRequest.embedding": Bound(
        MAX_CANDIDATES * EMBEDDING_DIM, f"{EMBEDDING_DIM} of each candidate", reason=Reason.CANDIDATES_INVALID
    ),
    "lifeline.v1.CreateSnapshotRequest.partitions": _PARTITIONS,
    "lifeline.v1.UseModelRequest.version": Bound(_NAME_BYTES, "the longest name of a directory"),
    "lifeline.v1.GroupMember.address": _ADDRESS,
    "lifeline.v1.GroupMember.partitions": _PARTITIONS,
    "lifeline.v1.GroupPlacement.partitions": _PARTITIONS,
    "lifeline.v1.GroupPlacement.follow": _PARTITIONS,
    "lifeline.v1.PlacedPartition.owner": _ADDRESS,
    "lifeline.v1.PlacedPartition.standbys": Bound(
        MAX_STANDBY_REPLICAS, "the most that updater.standby_replicas may be", max_entry_bytes=_ADDRESS_BYTES
    ),
    "grpc.health.v1.HealthCheckRequest.service": _NAME,
    "grpc.reflection.v1alpha.ServerReflectionRequest.host": _NAME,
    "grpc.reflection.v1alpha.ServerReflectionRequest.file_by_filename": _NAME,
    "grpc.reflection.v1alpha.ServerReflectionRequest.file_containing_symbol": _NAME,
    "grpc.reflection.v1alpha.ServerReflectionRequest.all_extension_numbers_of_type": _NAME,
    "grpc.reflection.v1alpha.ServerReflectionRequest.list_services": _NAME,
    "grpc.reflection.v1alpha.ExtensionRequest.containing_type": _NAME,
}
"""By the field's full name: every text, bytes and repeated field of a message that is checked has one."""


class LimitExceededError(Exception):
    """A field holds more than its bound. Senders: give less."""

    def __init__(self, field: str, length: int, unit: str, bound: Bound) -> None:
        self.field, self.length, self.unit, self.bound = field, length, unit, bound
        most = bound.max_entry_bytes if unit == "bytes" and bound.max_entry_bytes else bound.max_length
        super().__init__(f"it has {length:,} {unit}: give {most:,} at most, {bound.description}")


class MessageLimits:
    """The limits of one type of message. Safe in threads."""

    def __init__(self, descriptor: Descriptor) -> None:
        """Look the bounds up; raises KeyError for a field that has none."""
        self.descriptor = descriptor
        self._fields = [_Field(field) for field in descriptor.fields]
        self._checked = [field for field in self._fields if field.bound is not None or field.nested is not None]
        self.max_bytes = self._size() + UNKNOWN_BYTES
        """No message that keeps the bounds is longer."""

    @classmethod
    def of(cls, message: Message | type[Message]) -> Self:
        """Return the limits of a message's type."""
        return cls(cast("Descriptor", message.DESCRIPTOR))

    def check(self, message: Message, prefix: str = "") -> None:
        """Raise LimitExceededError for the first field that holds too much."""
        for field in self._checked:
            value: Any = getattr(message, field.name)
            if field.bound is not None:
                field.check(value, prefix)
            if field.nested is None:
                continue
            for part in value if field.is_repeated else (value,) if message.HasField(field.name) else ():
                field.nested.check(part, f"{prefix}{field.name}.")

    def rows(self) -> Iterable[tuple[str, str, Bound]]:
        """Yield each bounded field's full name, its unit and its bound, those of messages inside too."""
        for field in self._checked:
            if field.bound is not None:
                yield field.full_name, field.unit, field.bound
            if field.nested is not None:
                yield from field.nested.rows()

    def _size(self) -> int:
        return sum(field.max_bytes for field in self._fields)


_M = TypeVar("_M", bound=Message)


def decode_within_limits(kind: type[_M], data: bytes) -> _M:
    """Decode a message; raises LimitExceededError for one that is too long or has too much in it, and DecodeError."""
    limits = MessageLimits.of(kind)
    if len(data) > limits.max_bytes:
        raise LimitExceededError(
            kind.DESCRIPTOR.name, len(data), "bytes", Bound(limits.max_bytes, "the largest there is")
        )
    message = kind.FromString(data)
    limits.check(message)
    return message


class _Field:
    """One field of a message, and what it may hold."""

    def __init__(self, field: FieldDescriptor) -> None:
        self.name, self.full_name = field.name, field.full_name
        self.is_repeated: bool = field.is_repeated
        self.unit = "entries" if self.is_repeated else "bytes"
        self._is_text = field.type == FieldDescriptor.TYPE_STRING
        is_long = field.type in {FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES}
        self.bound = BOUNDS[field.full_name] if self.is_repeated or is_long else None
        if self.is_repeated and is_long and self.bound is not None and not self.bound.max_entry_bytes:
            raise KeyError(f"{field.full_name} is a repeated text: bound each entry too")
        self.nested = MessageLimits(field.message_type) if field.message_type is not None else None
        # The tag of a field below 2,048, and the longest number there is.
        entry = 2 + 10
        if is_long and self.bound is not None:
            entry += self.bound.max_entry_bytes or self.bound.max_length
        elif self.nested is not None:
            entry += self.nested.max_bytes - UNKNOWN_BYTES
        self.max_bytes = entry * (self.bound.max_length if self.is_repeated and self.bound is not None else 1)

    def check(self, value: Any, prefix: str) -> None:  # noqa: ANN401 - any field's value
        """Raise LimitExceededError where the value is too long."""
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
