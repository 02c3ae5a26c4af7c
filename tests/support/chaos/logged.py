"""A log of actions in memory."""

from dataclasses import dataclass

NOW_MS = 1_800_000_000_000


@dataclass(frozen=True)
class Logged:
    offset: int
    key: bytes | None
    value: bytes | None
    topic: str = "actions"
    partition: int = 0
    timestamp: int = NOW_MS
    timestamp_type: int = 1
    headers: tuple[tuple[str, bytes | None], ...] = ()
