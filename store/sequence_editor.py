"""One sequence while a batch is applied to it: insert, seal, late events in place, trim.

The invariants that it keeps:

- a sequence is its chunks, in the order of their fences, followed by its unsealed events;
- every unsealed event is above the sealed mark, every sealed one at or below it;
- a chunk's events are ascending and lie between its fence and the next chunk's; what sorts below the oldest
  fence goes into the oldest chunk, which then moves to a lower fence;
- no identity stands twice, and the sequence holds at most its cap: the newest ones.

Nothing is written here: what is to be written gathers in `edits`, which the partition store puts into the batch.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rocksdict import Rdict

from store import chunk
from store.actions import Identity
from store.chunk import EventColumns
from store.head import (
    EVENT,
    EVENT_BYTES,
    SEGMENT_PREFIX,
    Head,
    SealedPart,
    pack_events,
    segment_events,
    unpack_events,
)
from store.keys import chunk_fence, chunk_key, segment_key
from store.memory import get_many


class Shape(NamedTuple):
    """The sizes that rule a sequence on disk."""

    cap: int
    """Events kept."""
    inline_events: int
    """Events inside a head."""
    chunk_events: int
    """Events in a sealed chunk."""
    seal_at: int
    """Unsealed events at which the oldest are sealed."""


@dataclass(slots=True)
class Edits:
    """What is to be written, by column family."""

    rows: dict[bytes, bytes | None] = field(default_factory=dict)
    chunks: dict[bytes, bytes | None] = field(default_factory=dict)


class SequenceEditor:
    """Edits one sequence. `ids` gives the item id of each ordinal, which the order of events needs."""

    def __init__(
        self,
        prefix: bytes,
        head: Head,
        shape: Shape,
        rows: Rdict,
        chunks: Rdict,
        ids: Callable[[], NDArray[np.uint64]],
    ) -> None:
        self.head = head
        self.edits = Edits()
        self.trimmed: list[EventColumns] = []
        self.late_rewrites = 0
        self.sealed_chunks = 0
        self._prefix, self._shape, self._rows, self._chunks, self._ids = prefix, shape, rows, chunks, ids

    def insert(self, events: EventColumns) -> "NDArray[np.bool_] | None":
        """Insert ascending, distinct events; then seal and trim.

        Returns bool[n], which of them were new to the sequence, or None when all were.
        """
        first = self._identity(events, 0)
        if first > self.head.newest:
            fresh, was_new = events, None
        else:
            was_new = self._insert_late(events)
            fresh = events.take(was_new & self._above_mark(events))
        if fresh.n:
            self._append(fresh)
        if self.head.unsealed >= self._shape.seal_at:
            self._seal()
        if self.head.events > self._shape.cap:
            self._trim(self.head.events - self._shape.cap)
        return was_new

    def all_events(self) -> EventColumns:
        """Return every retained event, ascending."""
        parts = []
        sealed = self.head.sealed
        if sealed is not None:
            fence: Identity | None = sealed.oldest
            skip = sealed.skip
            while fence is not None:
                parts.append(chunk.decode(self._get_chunk(fence)).take(slice(skip, None)))
                skip = 0
                fence = self._next_fence(fence)
        parts.append(self._sorted(self._unsealed()))
        return EventColumns.concatenate(parts)

    # Unsealed events

    def _append(self, events: EventColumns) -> None:
        head = self.head
        head.inline += pack_events(events)
        head.unsealed += events.n
        head.newest = max(head.newest, self._identity(events, events.n - 1))
        if len(head.inline) > self._shape.inline_events * EVENT_BYTES:
            self.edits.rows[segment_key(self._prefix, head.segment_next)] = SEGMENT_PREFIX + head.inline
            head.segment_next += 1
            head.inline = b""

    def _unsealed(self) -> EventColumns:
        """Return the unsealed events, in no order."""
        head = self.head
        keys = [segment_key(self._prefix, number) for number in range(head.segment_first, head.segment_next)]
        stored = [key for key in keys if key not in self.edits.rows]
        found = dict(zip(stored, get_many(self._rows, stored), strict=True)) if stored else {}
        parts = [segment_events(self.edits.rows.get(key) or found[key] or b"") for key in keys]
        return unpack_events(b"".join([*parts, head.inline]))

    def _replace_unsealed(self, events: EventColumns) -> None:
        """Make ascending `events` the only unsealed ones, in one segment."""
        head = self.head
        for number in range(head.segment_first, head.segment_next):
            self.edits.rows[segment_key(self._prefix, number)] = None
        head.segment_first = head.segment_next
        head.inline = b""
        head.unsealed = events.n
        if events.n > self._shape.inline_events:
            self.edits.rows[segment_key(self._prefix, head.segment_next)] = SEGMENT_PREFIX + pack_events(events)
            head.segment_next += 1
        else:
            head.inline = pack_events(events)

    def _seal(self) -> None:
        """Cut the oldest unsealed events into chunks, keeping between one and two chunks of them unsealed."""
        size = self._shape.chunk_events
        events = self._sorted(self._unsealed())
        cut = (events.n // size - 1) * size
        fences = [self._put_new_chunk(events.take(slice(at, at + size))) for at in range(0, cut, size)]
        mark = self._identity(events, cut - 1)
        sealed = self.head.sealed
        self.head.sealed = (
            SealedPart(cut, 0, mark, fences[0])
            if sealed is None
            else sealed._replace(events=sealed.events + cut, mark=mark)
        )
        self._replace_unsealed(events.take(slice(cut, None)))
        self.sealed_chunks += len(fences)

    # Late events

    def _above_mark(self, events: EventColumns) -> NDArray[np.bool_]:
        sealed = self.head.sealed
        if sealed is None:
            return np.ones(events.n, np.bool_)
        return np.arange(events.n) >= self._rank(events, sealed.mark)

    def _insert_late(self, events: EventColumns) -> NDArray[np.bool_]:
        """Find which events are new; put those at or below the sealed mark into their chunks."""
        above = self._above_mark(events)
        split = events.n - int(above.sum())
        was_new = np.ones(events.n, np.bool_)
        # Above the newest event nothing can be a repeat, so history is read for what is below it alone.
        if split < self._rank(events, self.head.newest):
            was_new[split:] = ~_contained(events.take(slice(split, None)), self._unsealed())
        if split:
            was_new[:split] = self._insert_sealed(events.take(slice(0, split)))
        return was_new

    def _insert_sealed(self, events: EventColumns) -> NDArray[np.bool_]:
        was_new = np.zeros(events.n, np.bool_)
        at = 0
        while at < events.n:
            sealed = self._sealed()
            fence = max(sealed.oldest, self._floor_fence(self._identity(events, at)) or sealed.oldest)
            following = self._next_fence(fence)
            until = events.n if following is None else self._rank_below(events, following)
            part = events.take(slice(at, until))
            was_new[at:until] = self._merge_into_chunk(fence, part)
            at = until
        return was_new

    def _merge_into_chunk(self, fence: Identity, events: EventColumns) -> NDArray[np.bool_]:
        sealed = self._sealed()
        skip = sealed.skip if fence == sealed.oldest else 0
        kept = chunk.decode(self._get_chunk(fence)).take(slice(skip, None))
        new = ~_contained(events, kept)
        if skip:
            # The sequence is full, and what sorts below its oldest event is not among the newest.
            new &= np.arange(events.n) >= self._rank_below(events, self._identity(kept, 0))
        if not new.any():
            return new
        merged = self._sorted(EventColumns.concatenate([kept, events.take(new)]))
        size = self._shape.chunk_events
        pieces = max(1, merged.n // size) if merged.n >= 2 * size else 1
        oldest = sealed.oldest
        if self._identity(merged, 0) < fence:
            # Only the oldest chunk takes events below its fence, and then it moves to its new first event: a
            # piece that is split off must never sort below it.
            self.edits.chunks[chunk_key(self._prefix, fence)] = None
            oldest = fence = self._identity(merged, 0)
        first = merged.take(slice(0, merged.n if pieces == 1 else size))
        self.edits.chunks[chunk_key(self._prefix, fence)] = chunk.encode(first)
        for piece in range(1, pieces):
            until = merged.n if piece == pieces - 1 else (piece + 1) * size
            self._put_new_chunk(merged.take(slice(piece * size, until)))
        self.late_rewrites += 1
        self.head.sealed = sealed._replace(
            events=sealed.events + int(new.sum()), skip=0 if fence == oldest else sealed.skip, oldest=oldest
        )
        return new

    # Trim

    def _trim(self, excess: int) -> None:
        """Drop the oldest `excess` events; the dropped ones gather in `trimmed`."""
        while excess and self.head.sealed is not None:
            sealed = self.head.sealed
            oldest = chunk.decode(self._get_chunk(sealed.oldest))
            drop = min(excess, oldest.n - sealed.skip)
            self.trimmed.append(oldest.take(slice(sealed.skip, sealed.skip + drop)))
            excess -= drop
            if sealed.skip + drop < oldest.n:
                self.head.sealed = sealed._replace(events=sealed.events - drop, skip=sealed.skip + drop)
                continue
            following = self._next_fence(sealed.oldest)
            self.edits.chunks[chunk_key(self._prefix, sealed.oldest)] = None
            self.head.sealed = (
                None if following is None else sealed._replace(events=sealed.events - drop, skip=0, oldest=following)
            )
        if excess:
            events = self._sorted(self._unsealed())
            self.trimmed.append(events.take(slice(0, excess)))
            self._replace_unsealed(events.take(slice(excess, None)))

    # Chunks, as the batch so far would leave them

    def _sealed(self) -> SealedPart:
        if self.head.sealed is None:
            raise AssertionError("an event at or below the sealed mark needs a sealed part")
        return self.head.sealed

    def _put_new_chunk(self, events: EventColumns) -> Identity:
        fence = self._identity(events, 0)
        self.edits.chunks[chunk_key(self._prefix, fence)] = chunk.encode(events)
        return fence

    def _get_chunk(self, fence: Identity) -> bytes:
        key = chunk_key(self._prefix, fence)
        data: bytes | None = self.edits.chunks[key] if key in self.edits.chunks else self._chunks.get(key)
        return data or b""

    def _floor_fence(self, identity: Identity) -> Identity | None:
        """Return the highest fence at or below `identity`."""
        key = chunk_key(self._prefix, identity)
        mine = [k for k, data in self.edits.chunks.items() if data is not None and k <= key]
        iterator = self._chunks.iter()
        iterator.seek_for_prev(key)
        while iterator.valid() and iterator.key().startswith(self._prefix):
            found: bytes = iterator.key()
            if self.edits.chunks.get(found, b"") is not None:
                mine.append(found)
                break
            iterator.prev()
        return chunk_fence(max(mine)) if mine else None

    def _next_fence(self, fence: Identity) -> Identity | None:
        """Return the lowest fence above `fence`."""
        key = chunk_key(self._prefix, fence)
        mine = [k for k, data in self.edits.chunks.items() if data is not None and k > key]
        iterator = self._chunks.iter()
        iterator.seek(key + b"\0")
        while iterator.valid() and iterator.key().startswith(self._prefix):
            found: bytes = iterator.key()
            if self.edits.chunks.get(found, b"") is not None:
                mine.append(found)
                break
            iterator.next()
        return chunk_fence(min(mine)) if mine else None

    # Order

    def _identity(self, events: EventColumns, row: int) -> Identity:
        ordinal = events.ordinal[row]
        return Identity(int(events.timestamp_ms[row]), int(self._ids()[ordinal]), int(events.code[row]))

    def _sorted(self, events: EventColumns) -> EventColumns:
        return events.take(np.lexsort((events.code, self._ids()[events.ordinal], events.timestamp_ms)))

    def _rank(self, events: EventColumns, identity: Identity) -> int:
        """Return how many of the ascending events are at or below `identity`."""
        return self._count_below(events, identity, equal=True)

    def _rank_below(self, events: EventColumns, identity: Identity) -> int:
        """Return how many of the ascending events are below `identity`."""
        return self._count_below(events, identity, equal=False)

    def _count_below(self, events: EventColumns, identity: Identity, *, equal: bool) -> int:
        low = int(np.searchsorted(events.timestamp_ms, identity.timestamp_ms, "left"))
        high = int(np.searchsorted(events.timestamp_ms, identity.timestamp_ms, "right"))
        while low < high:
            middle = (low + high) // 2
            found = self._identity(events, middle)
            if found < identity or (equal and found == identity):
                low = middle + 1
            else:
                high = middle
        return low


def _contained(events: EventColumns, known: EventColumns) -> NDArray[np.bool_]:
    """Return bool[n]: which of `events` stand in `known`."""
    near = known.take(np.isin(known.timestamp_ms, events.timestamp_ms))
    if not near.n:
        return np.zeros(events.n, np.bool_)
    rows = np.frombuffer(pack_events(near), EVENT).tolist()
    seen = set(rows)
    return np.fromiter((row in seen for row in np.frombuffer(pack_events(events), EVENT).tolist()), np.bool_, events.n)
