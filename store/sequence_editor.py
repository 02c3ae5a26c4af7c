"""The edits of one sequence: insert, seal, insert late events, trim, expire.

It keeps these invariants:

- a sequence is its chunks, in the order of their fences, followed by its unsealed events;
- every unsealed event is above the sealed mark, every sealed one at or below it;
- a chunk's events are ascending, from its fence to below the next chunk's; an event below the oldest fence goes into
  the oldest chunk, which then gets a lower fence;
- all identities are distinct, and the sequence holds at most the newest `cap` events.

Nothing is written here: the changes are collected in `rows` and `chunks`, which the caller adds to the write batch.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rocksdict import Rdict

from lifeline.core.actions import Identity
from lifeline.store import chunk
from lifeline.store.chunk import EventColumns
from lifeline.store.errors import CorruptRecordError
from lifeline.store.event_order import ascending, count_below, count_up_to, identity_of, isin, isin_events
from lifeline.store.head import LOWEST, MAX_SEGMENTS, Head, SealedPart
from lifeline.store.head_cache import DecodedParts
from lifeline.store.keys import chunk_fence, chunk_key, chunk_name, segment_key
from lifeline.store.rocksdb import get_many
from lifeline.store.segment import EVENT, EVENT_BYTES, RAW, pack_events, pack_segment, unpack_segments


class Shape(NamedTuple):
    """The sizes that determine the layout of a sequence on disk."""

    cap: int
    """Most events of a sequence."""
    inline_events: int
    """Most inline events of a head."""
    chunk_events: int
    """Events in a sealed chunk."""
    keep_unsealed: int
    """Fewest events that stay unsealed after a seal."""
    run_segments: int
    """Number of raw segments that are merged into a run."""


class SequenceEditor:
    """Edits one sequence. `ids` returns the item id of each ordinal, by which events are sorted."""

    def __init__(
        self,
        prefix: bytes,
        head: Head,
        decoded: DecodedParts | None,
        shape: Shape,
        rows: Rdict,
        chunks: Rdict,
        ids: Callable[[], NDArray[np.uint64]],
    ) -> None:
        self.prefix, self.head, self.decoded = prefix, head, decoded or DecodedParts()
        self.rows: dict[bytes, bytes | None] = {}
        self.chunks: dict[bytes, bytes | None] = {}
        self.trimmed: list[EventColumns] = []
        self.earliest_ms: int | None = None
        self.late_rewrites = 0
        self.sealed_chunks = 0
        self._shape, self._stored_rows, self._stored_chunks, self._ids = shape, rows, chunks, ids

    def append(self, packed: bytes, newest_ms: int) -> None:
        """Append ascending events of 14 bytes, all later than the sequence's newest timestamp; then settle."""
        self.head.append(packed, newest_ms)
        self.settle()

    def insert(self, events: EventColumns) -> "NDArray[np.bool_] | None":
        """Insert ascending, distinct events; then settle.

        Returns bool[n], which of them were new to the sequence, or None when all were.
        """
        self.earliest_ms = int(events.timestamp_ms[0])
        if identity_of(events, 0, self._ids()) > self.head.newest(self._ids()):
            fresh, was_new = events, None
        else:
            split = 0 if self.head.sealed is None else count_up_to(events, self.head.sealed.mark, self._ids())
            was_new = self._insert_late(events, split)
            fresh = events.take(slice(split, None)).take(was_new[split:])
        if fresh.n:
            head, last = self.head, identity_of(fresh, fresh.n - 1, self._ids())
            before = head.newest_ms, head.newest_at
            is_newest = last > head.newest(self._ids())
            head.append(pack_events(fresh), last[0])
            if not is_newest:
                head.newest_ms, head.newest_at = before
        self.settle()
        return was_new

    def settle(self) -> None:
        """Restore the shape: move, merge, seal and trim events as the sizes require."""
        head, shape = self.head, self._shape
        if head.unsealed >= shape.chunk_events + shape.keep_unsealed:
            self._seal()
        elif len(head.inline) > shape.inline_events * EVENT_BYTES:
            self._move_inline()
        if head.events > shape.cap:
            self._trim(head.events - shape.cap)

    def expire(self, horizon_ms: int) -> None:
        """Remove all events before `horizon_ms`, and their bytes, and add them to `trimmed`."""
        while self.head.sealed is not None:
            sealed = self.head.sealed
            oldest = self._oldest_events()
            keep_from = int(np.searchsorted(oldest.timestamp_ms, horizon_ms))
            if keep_from <= sealed.skip:
                return
            self.trimmed.append(oldest.take(slice(sealed.skip, keep_from)))
            if keep_from == oldest.n:
                self._drop_oldest_chunk(keep_from - sealed.skip)
                continue
            self.chunks[chunk_key(self.prefix, sealed.oldest)] = None
            fence = self._put_new_chunk(oldest.take(slice(keep_from, None)))
            self.head.sealed = sealed._replace(events=sealed.events - (keep_from - sealed.skip), skip=0, oldest=fence)
            self.decoded.oldest_events = None
            return
        events = self._sorted(self._unsealed())
        expired = int(np.searchsorted(events.timestamp_ms, horizon_ms))
        if expired:
            self.trimmed.append(events.take(slice(0, expired)))
            self._replace_unsealed(events.take(slice(expired, None)))
        if not self.head.events:
            self.head.set_newest_identity(LOWEST)

    def oldest_timestamp_ms(self) -> int:
        """Return the timestamp of the oldest event; the sequence must have events."""
        if self.head.sealed is not None:
            return int(self._oldest_events().timestamp_ms[self.head.sealed.skip])
        return int(self._unsealed().timestamp_ms.min())

    def all_events(self) -> EventColumns:
        """Return every retained event, ascending."""
        parts = []
        sealed = self.head.sealed
        if sealed is not None:
            fence: tuple[int, int, int] | None = sealed.oldest
            skip = sealed.skip
            while fence is not None:
                parts.append(self._decode_chunk(fence).take(slice(skip, None)))
                skip = 0
                fence = self._next_fence(fence)
        parts.append(self._sorted(self._unsealed()))
        events = EventColumns.concatenate(parts)
        _check_count("retained", self.head.events, events.n)
        return events

    def finish(self) -> bytes | None:
        """Add the head to the changes, and return its record; None deletes it if there are no events."""
        record = self.rows[self.prefix] = self.head.pack() if self.head.events else None
        return record

    # Unsealed events

    def _unsealed(self) -> EventColumns:
        """Return the unsealed events, unordered."""
        events = unpack_segments(self._segments(0), self.head.inline)
        _check_count("unsealed", self.head.unsealed, events.n)
        return events

    def _segments(self, first: int) -> list[bytes]:
        """Return the segments from number `first` on."""
        keys = [segment_key(self.prefix, number) for number in range(first, self.head.segments)]
        unchanged = [key for key in keys if key not in self.rows]
        stored = dict(zip(unchanged, get_many(self._stored_rows, unchanged), strict=True)) if unchanged else {}
        segments = []
        for number, key in enumerate(keys, first):
            data = self.rows[key] if key in self.rows else stored[key]
            if data is None:
                raise CorruptRecordError("it is missing", record=f"segment {number}")
            segments.append(data)
        return segments

    def _move_inline(self) -> None:
        """Move the inline events into a raw segment, and merge raw segments into a run if there are enough."""
        head = self.head
        self.rows[segment_key(self.prefix, head.segments)] = RAW + head.inline
        if self.decoded.segment_times is not None:
            moved: NDArray[np.int64] = np.frombuffer(head.inline, EVENT)["timestamp_ms"]
            self.decoded.segment_times = np.concatenate([self.decoded.segment_times, moved])
        head.in_segments += len(head.inline) // EVENT_BYTES
        head.segments += 1
        head.set_newest_identity(head.newest(self._ids()))
        head.inline = b""
        if head.segments - head.runs >= self._shape.run_segments:
            self._merge_segments(head.runs)
        if head.segments == MAX_SEGMENTS:
            self._merge_segments(0)

    def _merge_segments(self, first: int) -> None:
        """Merge the segments from number `first` on into one run."""
        head = self.head
        merged = pack_segment(self._sorted(unpack_segments(self._segments(first), b"")))
        for number in range(first + 1, head.segments):
            self.rows[segment_key(self.prefix, number)] = None
        self.rows[segment_key(self.prefix, first)] = merged
        head.segments = head.runs = first + 1

    def _replace_unsealed(self, events: EventColumns) -> None:
        """Replace all unsealed events by ascending `events`: inline if they are few, else in one run."""
        head = self.head
        for number in range(head.segments):
            self.rows[segment_key(self.prefix, number)] = None
        head.set_newest_identity(head.newest(self._ids()))
        head.inline = b""
        head.segments = head.runs = head.in_segments = 0
        if events.n > self._shape.inline_events:
            self.rows[segment_key(self.prefix, 0)] = pack_segment(events)
            head.segments, head.runs, head.in_segments = 1, 1, events.n
            if self.decoded.segment_times is not None:
                self.decoded.segment_times = events.timestamp_ms.copy()
        else:
            self.decoded.segment_times = None
            if events.n:
                head.inline, head.newest_at = pack_events(events), events.n - 1

    def _seal(self) -> None:
        """Move the oldest unsealed events into full chunks; the newest stay unsealed."""
        size = self._shape.chunk_events
        events = self._sorted(self._unsealed())
        cut = (events.n - self._shape.keep_unsealed) // size * size
        fences = [self._put_new_chunk(events.take(slice(at, at + size))) for at in range(0, cut, size)]
        mark = identity_of(events, cut - 1, self._ids())
        sealed = self.head.sealed
        self.head.sealed = (
            SealedPart(cut, 0, mark, fences[0])
            if sealed is None
            else sealed._replace(events=sealed.events + cut, mark=mark)
        )
        self._replace_unsealed(events.take(slice(cut, None)))
        self.sealed_chunks += len(fences)

    # Late events

    def _insert_late(self, events: EventColumns, split: int) -> NDArray[np.bool_]:
        """Return bool[n], which events are new; insert the first `split`, up to the sealed mark, into their chunks."""
        was_new = np.ones(events.n, np.bool_)
        # Events above the newest one cannot be duplicates.
        late = count_up_to(events, self.head.newest(self._ids()), self._ids())
        if split < late:
            was_new[split:late] = ~self._is_unsealed(events.take(slice(split, late)))
        if split:
            was_new[:split] = self._insert_sealed(events.take(slice(0, split)))
        return was_new

    def _is_unsealed(self, events: EventColumns) -> NDArray[np.bool_]:
        """Return bool[n]: which of `events` are among the unsealed ones."""
        head = self.head
        same_time = isin(events.timestamp_ms, np.frombuffer(head.inline, EVENT)["timestamp_ms"])
        if head.in_segments and not same_time.all():
            if self.decoded.segment_times is None:
                self.decoded.segment_times = unpack_segments(self._segments(0), b"").timestamp_ms
            same_time |= isin(events.timestamp_ms, self.decoded.segment_times)
        if same_time.any():
            same_time[same_time] = isin_events(events.take(same_time), self._unsealed())
        return same_time

    def _insert_sealed(self, events: EventColumns) -> NDArray[np.bool_]:
        was_new = np.zeros(events.n, np.bool_)
        at = 0
        while at < events.n:
            sealed = self._sealed()
            fence = max(sealed.oldest, self._floor_fence(identity_of(events, at, self._ids())) or sealed.oldest)
            following = self._next_fence(fence)
            until = events.n if following is None else count_below(events, following, self._ids())
            part = events.take(slice(at, until))
            was_new[at:until] = self._merge_into_chunk(fence, part)
            at = until
        return was_new

    def _merge_into_chunk(self, fence: tuple[int, int, int], events: EventColumns) -> NDArray[np.bool_]:
        sealed = self._sealed()
        skip = sealed.skip if fence == sealed.oldest else 0
        kept = self._decode_chunk(fence).take(slice(skip, None))
        new = ~isin_events(events, kept)
        if skip:
            # The sequence is at its cap, so events below its oldest one would be trimmed at once.
            new &= np.arange(events.n) >= count_below(events, identity_of(kept, 0, self._ids()), self._ids())
        if not new.any():
            return new
        merged = self._sorted(EventColumns.concatenate([kept, events.take(new)]))
        size = self._shape.chunk_events
        pieces = max(1, merged.n // size) if merged.n >= 2 * size else 1
        oldest = sealed.oldest
        if identity_of(merged, 0, self._ids()) < fence:
            # Only the oldest chunk gets events below its fence. Its fence then moves to its new first event, so that
            # the chunks that are split off sort above it.
            self.chunks[chunk_key(self.prefix, fence)] = None
            oldest = fence = identity_of(merged, 0, self._ids())
        first = merged.take(slice(0, merged.n if pieces == 1 else size))
        self.chunks[chunk_key(self.prefix, fence)] = chunk.encode(first)
        for piece in range(1, pieces):
            until = merged.n if piece == pieces - 1 else (piece + 1) * size
            self._put_new_chunk(merged.take(slice(piece * size, until)))
        self.late_rewrites += 1
        if fence == oldest:
            self.decoded.oldest_events = None
        self.head.sealed = sealed._replace(
            events=sealed.events + int(new.sum()), skip=0 if fence == oldest else sealed.skip, oldest=oldest
        )
        return new

    # Trim

    def _trim(self, excess: int) -> None:
        """Drop the oldest `excess` events, and add them to `trimmed`."""
        while excess and self.head.sealed is not None:
            sealed = self.head.sealed
            oldest = self._oldest_events()
            drop = min(excess, oldest.n - sealed.skip)
            self.trimmed.append(oldest.take(slice(sealed.skip, sealed.skip + drop)))
            excess -= drop
            if sealed.skip + drop < oldest.n:
                self.head.sealed = sealed._replace(events=sealed.events - drop, skip=sealed.skip + drop)
            else:
                self._drop_oldest_chunk(drop)
        if excess:
            events = self._sorted(self._unsealed())
            self.trimmed.append(events.take(slice(0, excess)))
            self._replace_unsealed(events.take(slice(excess, None)))

    def _oldest_events(self) -> EventColumns:
        """Return the events of the oldest chunk, including the skipped ones."""
        if self.decoded.oldest_events is None:
            self.decoded.oldest_events = self._decode_chunk(self._sealed().oldest)
        return self.decoded.oldest_events

    def _drop_oldest_chunk(self, retained: int) -> None:
        """Drop the oldest chunk, which had `retained` events besides the skipped ones."""
        sealed = self._sealed()
        following = self._next_fence(sealed.oldest)
        if following is None:
            _check_count("sealed", sealed.events, retained)
        self.chunks[chunk_key(self.prefix, sealed.oldest)] = None
        self.decoded.oldest_events = None
        self.head.sealed = (
            None if following is None else sealed._replace(events=sealed.events - retained, skip=0, oldest=following)
        )

    def _sorted(self, events: EventColumns) -> EventColumns:
        return events.take(ascending(events, self._ids()))

    # Chunks, including the changes so far

    def _sealed(self) -> SealedPart:
        if self.head.sealed is None:
            raise AssertionError("an event at or below the sealed mark needs a sealed part")
        return self.head.sealed

    def _put_new_chunk(self, events: EventColumns) -> Identity:
        fence = identity_of(events, 0, self._ids())
        self.chunks[chunk_key(self.prefix, fence)] = chunk.encode(events)
        return fence

    def _decode_chunk(self, fence: tuple[int, int, int]) -> EventColumns:
        key = chunk_key(self.prefix, fence)
        data: bytes | None = self.chunks[key] if key in self.chunks else self._stored_chunks.get(key)
        try:
            events = chunk.decode(data or b"")
        except CorruptRecordError as error:
            raise CorruptRecordError(error.what, record=chunk_name(fence)) from error
        if events.n and int(events.ordinal.max()) >= len(self._ids()):
            raise CorruptRecordError(
                "it has an item ordinal that the partition does not have", record=chunk_name(fence)
            )
        return events

    def _floor_fence(self, identity: tuple[int, int, int]) -> Identity | None:
        """Return the highest fence at or below `identity`."""
        key = chunk_key(self.prefix, identity)
        fences = [k for k, data in self.chunks.items() if data is not None and k <= key]
        iterator = self._stored_chunks.iter()
        iterator.seek_for_prev(key)
        while iterator.valid() and iterator.key().startswith(self.prefix):
            stored: bytes = iterator.key()
            if self.chunks.get(stored, b"") is not None:
                fences.append(stored)
                break
            iterator.prev()
        return chunk_fence(max(fences)) if fences else None

    def _next_fence(self, fence: tuple[int, int, int]) -> Identity | None:
        """Return the lowest fence above `fence`."""
        key = chunk_key(self.prefix, fence)
        fences = [k for k, data in self.chunks.items() if data is not None and k > key]
        iterator = self._stored_chunks.iter()
        iterator.seek(key + b"\0")
        while iterator.valid() and iterator.key().startswith(self.prefix):
            stored: bytes = iterator.key()
            if self.chunks.get(stored, b"") is not None:
                fences.append(stored)
                break
            iterator.next()
        return chunk_fence(min(fences)) if fences else None


def _check_count(what: str, counted: int, stored: int) -> None:
    """Raise CorruptRecordError if a head's count differs from the stored events: running sums would become wrong."""
    if counted != stored:
        raise CorruptRecordError(f"it counts {counted} {what} events, but {stored} are stored", record="head")
