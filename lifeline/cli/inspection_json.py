"""Inspections as JSON, by the names of their fields."""

from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any

from lifeline.core.vocabulary import Vocabulary
from lifeline.store.fingerprint import as_text
from lifeline.store.head import Head
from lifeline.store.inspection.histogram import Histogram
from lifeline.store.inspection.partition import PartitionInspection
from lifeline.store.inspection.sequences import ChunkDetail, SequenceInspection
from lifeline.store.segment import EVENT_BYTES
from lifeline.store.state import State

_SHOWN_AT_EACH_END = 5


def plain(value: Any) -> Any:  # noqa: ANN401, PLR0911 - anything that an inspection holds
    """Return a value as JSON can hold it."""
    if isinstance(value, Enum):
        return value.name.lower()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, State):
        return value._asdict() | {"fingerprint": as_text(value.fingerprint)}
    if isinstance(value, Head):
        return plain(head_fields(value))
    if isinstance(value, Histogram):
        return plain(value.bins)
    if isinstance(value, Mapping):
        return {str(plain(key)): plain(each) for key, each in value.items()}
    if is_dataclass(value):
        return {each.name: plain(getattr(value, each.name)) for each in fields(value)} | _computed(value)
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return plain(value._asdict())
    return [plain(each) for each in value] if isinstance(value, Iterable) else str(value)


def head_fields(head: Head) -> dict[str, object]:
    """Return the fields of a head record, without its inline events."""
    return {
        "events": head.events,
        "inline_events": len(head.inline) // EVENT_BYTES,
        "newest_timestamp_ms": head.newest_ms,
        "newest_inline_number": head.newest_at,
        "segments": head.segments,
        "runs": head.runs,
        "in_segments": head.in_segments,
        "sealed": head.sealed,
        "expiry_hour": head.expiry_hour,
    }


def shown_rows(n: int, *, show_all: bool) -> list[int]:
    """Return which of n rows are shown: the first and last few, or all."""
    return (
        [*range(n)]
        if show_all or n <= 2 * _SHOWN_AT_EACH_END
        else [*range(_SHOWN_AT_EACH_END), *range(n - _SHOWN_AT_EACH_END, n)]
    )


def chunk_json(detail: ChunkDetail, vocabulary: Vocabulary, *, show_all: bool) -> dict[str, Any]:
    """Return a chunk and those of its events that are shown; `events` is null if the chunk is broken."""
    return {
        "as_of": plain(detail.as_of),
        "user": detail.sequence.user,
        "kind": plain(detail.sequence.kind),
        "chunks": len(detail.sequence.chunks),
        "chunk": plain(detail.chunk),
        "damages": plain(detail.damages),
        "events": event_rows(detail, vocabulary, show_all=show_all),
    }


def event_rows(detail: ChunkDetail, vocabulary: Vocabulary, *, show_all: bool) -> list[dict[str, Any]] | None:
    """Return those events of a chunk that are shown; None if the chunk is broken."""
    events, item_id = detail.events, detail.item_id
    if events is None or item_id is None:
        return None
    types, surfaces = vocabulary.action_type_names, vocabulary.surface_names
    return [
        {
            "number": row,
            "timestamp_ms": int(events.timestamp_ms[row]),
            "item_id": int(item_id[row]),
            "ordinal": int(events.ordinal[row]),
            "action_type": types.get(int(events.code[row]) >> 8, int(events.code[row]) >> 8),
            "surface": surfaces.get(int(events.code[row]) & 0xFF, int(events.code[row]) & 0xFF),
            "trimmed": row < detail.chunk.skip,
        }
        for row in shown_rows(events.n, show_all=show_all)
    ]


def _computed(value: object) -> dict[str, Any]:
    if isinstance(value, PartitionInspection):
        return {"sizes": plain(value.sizes)}
    if isinstance(value, SequenceInspection):
        return {"events": value.events, "bytes": value.bytes}
    return {}
