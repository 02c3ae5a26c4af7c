"""One sequence while a batch is applied to it: insert, seal, late events in place, trim, expire.

The invariants that it keeps:

- a sequence is its chunks, in the order of their fences, followed by its unsealed events;
- every unsealed event is above the sealed mark, every sealed one at or below it;
- a chunk's events are ascending and lie between its fence and the next chunk's; what sorts below the oldest
  fence goes into the oldest chunk, which then moves to a lower fence;
- no identity stands twice, and the sequence holds at most its cap: the newest ones.

Nothing is written here: what is to be written gathers in `rows` and `chunks`, which the partition store puts
into the batch.
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
from lifeline.store.event_order import among, ascending, contained, count_below, count_up_to, identity_of
from lifeline.store.head import LOWEST, MAX_SEGMENTS, Head, SealedPart
from lifeline.store.head_cache import Remembered
from lifeline.store.keys import chunk_fence, chunk_key, chunk_name, segment_key
from lifeline.store.rocksdb import get_many
from lifeline.store.segment import EVENT, EVENT_BYTES, RAW, pack_events, pack_segment, unpack_segments


class Shape(NamedTuple):
    """The sizes that rule a sequence on disk."""

    cap: int
    """Events kept."""
    inline_events: int
    """Events inside a head."""
    chunk_events: int
    """Events in a sealed chunk."""
    keep_unsealed: int
    """Events that a seal leaves unsealed at least."""
    run_segments: int
    """Raw segments that are merged into a run."""


class SequenceEditor:
    """Edits one sequence. `ids` gives the item id of each ordinal, which the order of events needs."""

    def __init__(
        self,
        prefix: bytes,
        head: Head,
        remembered: Remembered | None,
        shape: Shape,
        rows: Rdict,
        chunks: Rdict,
        ids: Callable[[], NDArray[np.uint64]],
    ) -> None:
        self.prefix, self.head, self.remembered = prefix, head, remembered or Remembered()
        self.rows: dict[bytes, bytes | None] = {}
        self.chunks: dict[bytes, bytes | None] = {}
        self.trimmed: list[EventColumns] = []
        self.earliest_ms: int | None = None
        self.late_rewrites = 0
        self.sealed_chunks = 0
        self._shape, self._stored_rows, self._stored_chunks, self._ids = shape, rows, chunks, ids

    def append(self, packed: bytes, newest_ms: int) -> None:
        """Append ascending events, 14 bytes each, all after the sequence's newest moment; then settle."""
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
        """Bring the sequence back into its shape: segments, runs, chunks, the cap."""
        head, shape = self.head, self._shape
        if head.unsealed >= shape.chunk_events + shape.keep_unsealed:
            self._seal()
        elif len(head.inline) > shape.inline_events * EVENT_BYTES:
            self._move_inline()
        if head.events > shape.cap:
            self._trim(head.events - shape.cap)

    def expire(self, horizon_ms: int) -> None:
        """Remove every event before `horizon_ms`, its bytes too; they gather in `trimmed`."""
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
            self.remembered.oldest_events = None
            return
        events = self._sorted(self._unsealed())
        gone = int(np.searchsorted(events.timestamp_ms, horizon_ms))
        if gone:
            self.trimmed.append(events.take(slice(0, gone)))
            self._replace_unsealed(events.take(slice(gone, None)))
        if not self.head.events:
            self.head.put_newest_elsewhere(LOWEST)

    def oldest_timestamp_ms(self) -> int:
        """Return the timestamp of the oldest event of a sequence that has one."""
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
        """Put the head among what is to be written, and return its record; without events nothing stays behind."""
        record = self.rows[self.prefix] = self.head.pack() if self.head.events else None
        return record

    # Unsealed events

    def _unsealed(self) -> EventColumns:
        """Return the unsealed events, in no order."""
        events = unpack_segments(self._segments(0), self.head.inline)
        _check_count("unsealed", self.head.unsealed, events.n)
        return events

    def _segments(self, first: int) -> list[bytes]:
        """Return the segments from number `first` on."""
        wanted = [segment_key(self.prefix, number) for number in range(first, self.head.segments)]
        stored = [key for key in wanted if key not in self.rows]
        found = dict(zip(stored, get_many(self._stored_rows, stored), strict=True)) if stored else {}
        segments = []
        for number, key in enumerate(wanted, first):
            data = self.rows[key] if key in self.rows else found[key]
            if data is None:
                raise CorruptRecordError("it is missing", record=f"segment {number}")
            segments.append(data)
        return segments

    def _move_inline(self) -> None:
        """Make the inline events a raw segment, and merge raw segments into a run when they are many."""
        head = self.head
        self.rows[segment_key(self.prefix, head.segments)] = RAW + head.inline
        if self.remembered.segment_times is not None:
            moved: NDArray[np.int64] = np.frombuffer(head.inline, EVENT)["timestamp_ms"]
            self.remembered.segment_times = np.concatenate([self.remembered.segment_times, moved])
        head.in_segments += len(head.inline) // EVENT_BYTES
        head.segments += 1
        head.put_newest_elsewhere(head.newest(self._ids()))
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
        """Make ascending `events` the only unsealed ones: inline if they are few, else one run."""
        head = self.head
        for number in range(head.segments):
            self.rows[segment_key(self.prefix, number)] = None
        head.put_newest_elsewhere(head.newest(self._ids()))
        head.inline = b""
        head.segments = head.runs = head.in_segments = 0
        if events.n > self._shape.inline_events:
            self.rows[segment_key(self.prefix, 0)] = pack_segment(events)
            head.segments, head.runs, head.in_segments = 1, 1, events.n
            if self.remembered.segment_times is not None:
                self.remembered.segment_times = events.timestamp_ms.copy()
        else:
            self.remembered.segment_times = None
            if events.n:
                head.inline, head.newest_at = pack_events(events), events.n - 1

    def _seal(self) -> None:
        """Cut the oldest unsealed events into whole chunks, and keep the newest of them unsealed."""
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
        """Find which events are new; put those at or below the sealed mark, the first `split`, into their chunks."""
        was_new = np.ones(events.n, np.bool_)
        # Above the newest event nothing can be a repeat, so only what is at or below it is looked for.
        late = count_up_to(events, self.head.newest(self._ids()), self._ids())
        if split < late:
            was_new[split:late] = ~self._is_unsealed(events.take(slice(split, late)))
        if split:
            was_new[:split] = self._insert_sealed(events.take(slice(0, split)))
        return was_new

    def _is_unsealed(self, events: EventColumns) -> NDArray[np.bool_]:
        """Return bool[n]: which of `events` stand among the unsealed ones."""
        head = self.head
        same_time = among(events.timestamp_ms, np.frombuffer(head.inline, EVENT)["timestamp_ms"])
        if head.in_segments and not same_time.all():
            if self.remembered.segment_times is None:
                self.remembered.segment_times = unpack_segments(self._segments(0), b"").timestamp_ms
            same_time |= among(events.timestamp_ms, self.remembered.segment_times)
        if same_time.any():
            same_time[same_time] = contained(events.take(same_time), self._unsealed())
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
        new = ~contained(events, kept)
        if skip:
            # The sequence is full, and what sorts below its oldest event is not among the newest.
            new &= np.arange(events.n) >= count_below(events, identity_of(kept, 0, self._ids()), self._ids())
        if not new.any():
            return new
        merged = self._sorted(EventColumns.concatenate([kept, events.take(new)]))
        size = self._shape.chunk_events
        pieces = max(1, merged.n // size) if merged.n >= 2 * size else 1
        oldest = sealed.oldest
        if identity_of(merged, 0, self._ids()) < fence:
            # Only the oldest chunk takes events below its fence, and then it moves to its new first event: a
            # piece that is split off must never sort below it.
            self.chunks[chunk_key(self.prefix, fence)] = None
            oldest = fence = identity_of(merged, 0, self._ids())
        first = merged.take(slice(0, merged.n if pieces == 1 else size))
        self.chunks[chunk_key(self.prefix, fence)] = chunk.encode(first)
        for piece in range(1, pieces):
            until = merged.n if piece == pieces - 1 else (piece + 1) * size
            self._put_new_chunk(merged.take(slice(piece * size, until)))
        self.late_rewrites += 1
        if fence == oldest:
            self.remembered.oldest_events = None
        self.head.sealed = sealed._replace(
            events=sealed.events + int(new.sum()), skip=0 if fence == oldest else sealed.skip, oldest=oldest
        )
        return new

    # Trim

    def _trim(self, excess: int) -> None:
        """Drop the oldest `excess` events; the dropped ones gather in `trimmed`."""
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
        """Return the events of the oldest chunk, the skipped ones too."""
        if self.remembered.oldest_events is None:
            self.remembered.oldest_events = self._decode_chunk(self._sealed().oldest)
        return self.remembered.oldest_events

    def _drop_oldest_chunk(self, retained: int) -> None:
        """Drop the oldest chunk, of which `retained` events were not skipped."""
        sealed = self._sealed()
        following = self._next_fence(sealed.oldest)
        if following is None:
            _check_count("sealed", sealed.events, retained)
        self.chunks[chunk_key(self.prefix, sealed.oldest)] = None
        self.remembered.oldest_events = None
        self.head.sealed = (
            None if following is None else sealed._replace(events=sealed.events - retained, skip=0, oldest=following)
        )

    def _sorted(self, events: EventColumns) -> EventColumns:
        return events.take(ascending(events, self._ids()))

    # Chunks, as the batch so far would leave them

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
            raise CorruptRecordError("it names an item that the partition does not have", record=chunk_name(fence))
        return events

    def _floor_fence(self, identity: tuple[int, int, int]) -> Identity | None:
        """Return the highest fence at or below `identity`."""
        key = chunk_key(self.prefix, identity)
        mine = [k for k, data in self.chunks.items() if data is not None and k <= key]
        iterator = self._stored_chunks.iter()
        iterator.seek_for_prev(key)
        while iterator.valid() and iterator.key().startswith(self.prefix):
            found: bytes = iterator.key()
            if self.chunks.get(found, b"") is not None:
                mine.append(found)
                break
            iterator.prev()
        return chunk_fence(max(mine)) if mine else None

    def _next_fence(self, fence: tuple[int, int, int]) -> Identity | None:
        """Return the lowest fence above `fence`."""
        key = chunk_key(self.prefix, fence)
        mine = [k for k, data in self.chunks.items() if data is not None and k > key]
        iterator = self._stored_chunks.iter()
        iterator.seek(key + b"\0")
        while iterator.valid() and iterator.key().startswith(self.prefix):
            found: bytes = iterator.key()
            if self.chunks.get(found, b"") is not None:
                mine.append(found)
                break
            iterator.next()
        return chunk_fence(min(mine)) if mine else None


def _check_count(what: str, counted: int, found: int) -> None:
    """Raise CorruptRecordError when a head counts other events than are there: the running sums would stay wrong."""
    if counted != found:
        raise CorruptRecordError(f"it counts {counted} {what} events, and {found} are there", record="head")
