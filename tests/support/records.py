"""Records as a consumer returns them, without a broker."""

from dataclasses import dataclass
from typing import Any

from lifeline.core.partitioner import partition_of
from lifeline.stream.record import LOG_APPEND_TIME
from lifeline.v1.action_pb2 import Action

LOGGED_MS = 1_700_000_000_000
PARTITION = partition_of(b"ann", 4)


@dataclass(frozen=True)
class FakeRecord:
    offset: int = 0
    key: bytes | None = b"ann"
    value: bytes | None = None
    timestamp: int = LOGGED_MS
    timestamp_type: int = LOG_APPEND_TIME
    partition: int = PARTITION
    topic: str = "actions"
    headers: tuple[tuple[str, bytes | None], ...] = ()


def value(**fields: Any) -> bytes:
    values: dict[str, Any] = {"user_id": "ann", "item_id": 7, "timestamp_ms": 5, "action_type": 1, "surface": 2}
    return Action(**(values | fields)).SerializeToString()
