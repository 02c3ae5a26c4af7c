"""What must hold of a user's segments."""

from itertools import pairwise
from typing import cast

from lifeline.core.actions import Identity, Kind
from lifeline.store import chunk, keys
from lifeline.store.head import Head
from lifeline.store.head_cache import DecodedParts
from lifeline.store.partition import PartitionStore
from lifeline.store.segment import RAW, RUN_EVENTS, unpack_segments
from lifeline.store.settings import StoreSettings
from tests.support.factories import HOUR_MS, LAST_HOUR, rows_of


def check_layout(store: PartitionStore, shape: StoreSettings) -> None:
    """Assert the invariants of the records themselves, and that nothing is left behind on disk."""
    rows: dict[bytes, bytes] = {}
    chunks: dict[bytes, bytes] = {}
    with store.view() as view:
        for iterator, into in ((view.rows, rows), (view.chunks, chunks)):
            iterator.seek_to_first()
            while iterator.valid():
                into[iterator.key()] = iterator.value()
                iterator.next()
        ids = view.item_ids
        del view, iterator

    def identities(events: chunk.EventColumns) -> list[Identity]:
        return [Identity(at, ids.item(ordinal), code) for at, ordinal, code in rows_of(events)]

    expiry_keys: list[bytes] = []
    for prefix in [key for key in rows if keys.is_head(key)]:
        kind = keys.kind_of(prefix)
        data = rows.pop(prefix)
        head = Head.unpack(data, len(ids))
        assert head.pack() == data
        segments = [rows.pop(keys.segment_key(prefix, number)) for number in range(head.segments)]
        assert head.runs <= head.segments
        for number, segment in enumerate(segments):
            found = identities(unpack_segments([segment], b""))
            # What a merge has made is ascending, and a chunk where that pays.
            assert number >= head.runs or found == sorted(found)
            assert (segment[:1] == RAW) == (number >= head.runs or len(found) < RUN_EVENTS)
        assert head.segments - head.runs < shape.run_segments
        unsealed = identities(unpack_segments(segments, head.inline))
        assert len(unsealed) == head.unsealed < shape.chunk_events + shape.keep_unsealed
        assert len(head.inline) // 14 <= shape.inline_events
        if head.newest_at is not None:
            assert unsealed[head.in_segments + head.newest_at] == head.newest(ids)
        unsealed.sort()
        mine = {found: chunks.pop(found) for found in sorted(chunks) if found.startswith(prefix)}
        assert bool(mine) == (head.sealed is not None)
        sealed: list[Identity] = []
        for (key, data), (following, _) in pairwise([*mine.items(), (b"\xff" * 40, b"")]):
            events = identities(chunk.decode(data))
            assert 1 <= len(events) < 2 * shape.chunk_events
            assert keys.chunk_prefix(key) == prefix
            assert keys.chunk_fence(key) <= events[0]
            assert following == b"\xff" * 40 or events[-1] < keys.chunk_fence(following)
            sealed += events
        if head.sealed is not None:
            assert keys.chunk_fence(next(iter(mine))) == head.sealed.oldest
            assert len(sealed) - head.sealed.skip == head.sealed.events > 0
            assert sealed[-1] <= head.sealed.mark
            assert not unsealed or head.sealed.mark < unsealed[0]
            sealed = sealed[head.sealed.skip :]
        everything = sealed + unsealed
        assert all(left < right for left, right in pairwise(everything))
        assert 1 <= len(everything) == head.events <= shape.cap(Kind(kind))
        assert everything[-1] == head.newest(ids)
        assert head.newest_ms == everything[-1].timestamp_ms
        assert (head.expiry_hour is None) == (shape.max_age_hours(Kind(kind)) is None)
        if head.expiry_hour is not None:
            oldest_hour = min(max(everything[0].timestamp_ms // HOUR_MS, 0), LAST_HOUR)
            assert head.expiry_hour <= oldest_hour
            expiry_keys.append(keys.expiry_key(prefix, head.expiry_hour))
    assert not rows, "segments that belong to no head"
    assert not chunks, "chunks that belong to no head"
    meta = cast("list[bytes]", list(store.database.meta.keys()))
    found_keys = [key for key in meta if key.startswith(keys.EXPIRY_PREFIX)]
    assert found_keys == sorted(expiry_keys)
    check_cache(store)


def check_cache(store: PartitionStore) -> None:
    """Assert that the heads in memory are those on disk, and that what is remembered beside them is true."""
    cached = store._heads
    assert cached._decoded.keys() <= cached._records.keys()
    for prefix, record in cached._records.items():
        assert store.database.rows.get(prefix) == record
        head, decoded = Head.unpack(record, store.items), cached._decoded.get(prefix, DecodedParts())
        if decoded.segment_times is not None:
            numbers = range(head.segments)
            segments = [cast("bytes", store.database.rows[keys.segment_key(prefix, number)]) for number in numbers]
            assert sorted(decoded.segment_times) == sorted(unpack_segments(segments, b"").timestamp_ms)
        if decoded.oldest_events is not None:
            assert head.sealed is not None
            oldest = cast("bytes", store.database.chunks[keys.chunk_key(prefix, head.sealed.oldest)])
            assert rows_of(decoded.oldest_events) == rows_of(chunk.decode(oldest))
