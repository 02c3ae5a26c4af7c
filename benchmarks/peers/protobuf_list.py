"""`protobuf_list`: a RocksDB value a user, one protobuf message with the user's events repeated in it.

    message Event { int64 timestamp_ms = 1; fixed64 item_id = 2; uint32 action_type = 3; uint32 surface = 4; }
    message History { repeated Event events = 1; }

An item's id is fixed64, which is smaller than a varint for ids that are hashes. An append parses the message,
adds an event, cuts it to the cap, serialises it and writes it back. The message classes come from protobuf's own
runtime (upb, in C), without a compiler.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from numpy.typing import NDArray

from benchmarks.peers.peer import CAP, Columns, Row
from benchmarks.peers.rocks import PlainPeer

_FIELDS = {
    "timestamp_ms": FieldDescriptorProto.TYPE_INT64,
    "item_id": FieldDescriptorProto.TYPE_FIXED64,
    "action_type": FieldDescriptorProto.TYPE_UINT32,
    "surface": FieldDescriptorProto.TYPE_UINT32,
}


class ProtobufList(PlainPeer):
    """One message a user."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._history = _history_class()

    def extend(self, user: str, events: NDArray[np.void]) -> None:
        """Write the user's message."""
        history = self._history()
        for row in events.tolist():
            _add(history, row)
        self._database[user.encode()] = history.SerializeToString()

    def append(self, batch: Sequence[tuple[str, Row]]) -> None:
        """Parse, add, cut, serialise and write back, an event at a time."""
        for user, row in batch:
            key = user.encode()
            history = self._history.FromString(self.stored(key))
            _add(history, row)
            del history.events[:-CAP]
            self._database[key] = history.SerializeToString()

    def read(self, user: str) -> Columns:
        """Parse the message and gather its columns."""
        events = list(self._history.FromString(self.stored(user.encode())).events)
        return Columns(
            np.array([event.timestamp_ms for event in events], np.int64),
            np.array([event.item_id for event in events], np.uint64),
            np.array([event.action_type for event in events], np.uint8),
            np.array([event.surface for event in events], np.uint8),
        )


def _add(history: Any, row: Row) -> None:  # noqa: ANN401 - a class made at run time has no type to name
    history.events.add(timestamp_ms=row[0], item_id=row[1], action_type=row[2], surface=row[3])


def _history_class() -> Any:  # noqa: ANN401 - as above
    file = FileDescriptorProto(name="peers.proto", package="peers", syntax="proto3")
    event = file.message_type.add(name="Event")
    for number, (name, kind) in enumerate(_FIELDS.items(), 1):
        event.field.add(name=name, number=number, type=kind, label=FieldDescriptorProto.LABEL_OPTIONAL)
    file.message_type.add(name="History").field.add(
        name="events",
        number=1,
        type=FieldDescriptorProto.TYPE_MESSAGE,
        type_name=".peers.Event",
        label=FieldDescriptorProto.LABEL_REPEATED,
    )
    pool = DescriptorPool()
    pool.Add(file)
    return GetMessageClass(pool.FindMessageTypeByName("peers.History"))
