"""Histories of two users to erase among others, and a search for their traces in a store's files."""

import random
import struct
from contextlib import suppress
from pathlib import Path
from typing import cast

from lifeline.core.actions import Kind
from lifeline.store import keys
from lifeline.store.partition import PartitionStore
from tests.support.factories import HOUR_MS, Event, Model, batch_of, tiny

SHAPE = tiny(max_explicit=60, max_explicit_age_days=9, chunk_events=8, inline_events=4)
# In the order of keys these users stand between others, so that a table that holds them holds others too.
LONG = "margarethe-von-w\u00fcrzburg@example.org/4711".encode()
SHORT = b"e"
SINCE = 500_000 * HOUR_MS
OTHERS = [b"ann", b"d", b"e\x00", b"ea", b"margarethe", LONG[:-2], LONG[:-2] + b"2", b"zoe"]


def events_of(user: bytes) -> list[Event]:
    """Return a user's events: no other user has their times and items, and the others' events are newer."""
    rng = random.Random(user)
    number = len(user) << 12
    return [
        Event(user, SINCE + 1_234_567 + at * 7_919 + number, 0xDECADE_0000 + number + at, rng.choice([257, 258]), kind)
        for at in range(70)
        for kind in (Kind.EXPLICIT, Kind.IMPRESSION)
    ]


def events_of_others(offset: int) -> list[Event]:
    rng = random.Random(offset)
    return [
        Event(rng.choice(OTHERS), SINCE + HOUR_MS + offset * 60_000 + at, rng.randrange(500), 257, rng.choice([*Kind]))
        for at in range(40)
    ]


def traces(user: bytes) -> dict[str, list[bytes]]:
    """Return the bytes that no file may hold after the erasure, by what they are: the user's id and events.

    An id of up to 8 bytes is left out: it may occur by chance. Item ids are searched for as the keys of chunks hold
    them, big-endian; the item table, which belongs to no user, holds them little-endian.
    """
    events = events_of(user)
    needles: dict[str, list[bytes]] = {"times": [], "items": [], "fences": [], "chunks": []}
    for event in events:
        needles["times"] += [struct.pack("<q", event.timestamp_ms), struct.pack(">q", event.timestamp_ms)]
        needles["items"].append(struct.pack(">Q", event.item_id))
        fence = struct.pack(">Q", event.timestamp_ms + (1 << 63))
        needles["fences"] += [fence, fence.hex().encode(), fence.hex().upper().encode()]
    if len(user) > 8:
        # The end of the user's range of keys is the id with a higher last byte: search without that byte, too.
        needles["id"] = [
            form for name in (user, user[:-1]) for form in (name, name.hex().encode(), name.hex().upper().encode())
        ]
    return needles


def files(path: Path) -> dict[str, bytes]:
    """Return the content of every file under a directory."""
    contents: dict[str, bytes] = {}
    for file in path.rglob("*"):
        with suppress(FileNotFoundError, IsADirectoryError):
            contents[file.name] = file.read_bytes()
    return contents


def traces_in(path: Path, user: bytes, *, chunks: list[bytes] | None = None) -> dict[str, set[str]]:
    """Return the names of the files that hold traces of a user, by kind of trace."""
    needles_by_trace = traces(user) | {"chunks": chunks or []}
    contents = files(path)
    names_by_trace = {
        trace: {name for name, content in contents.items() if any(needle in content for needle in needles)}
        for trace, needles in needles_by_trace.items()
    }
    return {trace: names for trace, names in names_by_trace.items() if names}


def chunk_bodies(store: PartitionStore, user: bytes) -> list[bytes]:
    """Return the encoded columns of a user's chunks."""
    items = cast("list[tuple[bytes, bytes]]", list(store.database.chunks.items()))
    return [data[32:] for key, data in items if key.startswith(keys.user_prefix(user))]


def fill(store: PartitionStore | Model, first: int, n: int, *users: bytes) -> None:
    """Apply n batches from an offset on, each with a part of each user's events; skip those that a store has."""
    begin = 0 if isinstance(store, Model) else max(0, store.applied_offset + 1 - first)
    for number in range(begin, n):
        events = events_of_others(first + number)
        for user in users:
            history = events_of(user)
            events += history[len(history) * number // n : len(history) * (number + 1) // n]
        if isinstance(store, Model):
            store.apply(events)
        else:
            store.apply(batch_of(events), offset=first + number)
