"""The stored records that a query of a user needs, still encoded, with a stamp that tells whether any changed."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rocksdict import RdictIter

from lifeline.core.actions import Kind
from lifeline.core.sequence import AsOf, SequenceQuery
from lifeline.store import keys
from lifeline.store.chunk import Chunk
from lifeline.store.database import View
from lifeline.store.errors import CorruptRecordError, StoreError
from lifeline.store.head import Head


class ChunkPart(NamedTuple):
    """A chunk that a query needs."""

    key: bytes
    chunk: Chunk
    skip: int
    """Trimmed events at the start of the chunk."""


class SequenceRecords(NamedTuple):
    """The records of one sequence that a query needs."""

    head: Head
    head_record: bytes
    segments: list[bytes]
    chunks: list[ChunkPart]
    """Oldest first."""

    @property
    def stamp(self) -> tuple[bytes, ...]:
        """The bytes of head and segments; of a chunk, key and header, because its header has a checksum of the rest."""
        return (self.head_record, *self.segments, *(part.key + part.chunk.header for part in self.chunks))


class UserRecords(NamedTuple):
    """The records of one user that a query needs, all from one view."""

    user_id: str
    as_of: AsOf
    item_ids: NDArray[np.uint64]
    """uint64[m]: the item id of each ordinal."""
    sequences: Mapping[Kind, SequenceRecords | None]
    """The records by kind, for every kind of the query; None if the user has no events of the kind."""

    @property
    def stamp(self) -> tuple[object, ...]:
        """A value that changes if and only if the result of the query changes.

        Compare stamps of the same query on the same open partition only (`ReadablePartition.instance`).
        """
        return tuple(None if records is None else records.stamp for records in self.sequences.values())


def find_sequence(view: View, user_id: str, kind: Kind, query: SequenceQuery) -> SequenceRecords | None:
    """Return the records of a sequence that a query needs, or None without events.

    Raises CorruptRecordError, StoreError.
    """
    prefix = keys.sequence_prefix(user_id.encode(), kind)
    rows = view.rows
    rows.seek(prefix)
    if rows.key() != prefix:
        _check(rows)
        return None
    record: bytes = rows.value()
    try:
        head = Head.unpack(record, len(view.item_ids))
    except CorruptRecordError as error:
        raise CorruptRecordError(error.what, record="head") from error
    segments = []
    following, key, value = rows.next, rows.key, rows.value
    for number in range(head.segments):
        following()
        # At the end of the family, key() is None.
        if key() != keys.segment_key(prefix, number):
            _check(rows)
            raise CorruptRecordError("it is missing", record=f"segment {number}")
        segments.append(value())
    newest = newest_needed(query)
    wanted = (head.events if newest is None else newest) - head.unsealed
    return SequenceRecords(head, record, segments, _find_chunks(view, prefix, head, wanted, query))


def newest_needed(query: SequenceQuery) -> int | None:
    """Return how many of a sequence's newest events suffice for a query; None if that cannot be known."""
    # The newest N events that match a filter need not be among the newest N of the sequence.
    return None if query.action_types or query.to_timestamp_ms is not None else query.newest


def _find_chunks(view: View, prefix: bytes, head: Head, wanted: int, query: SequenceQuery) -> list[ChunkPart]:
    """Return the chunks that hold the newest `wanted` sealed events in the query's time range, oldest first."""
    sealed = head.sealed
    if sealed is None or wanted <= 0:
        return []
    parts: list[ChunkPart] = []
    oldest = keys.chunk_key(prefix, sealed.oldest)
    since, until = query.from_timestamp_ms, query.to_timestamp_ms
    counted, is_complete = 0, False
    iterator = view.chunks
    iterator.seek_for_prev(keys.prefix_end(prefix))
    while counted < wanted and iterator.valid():
        key = iterator.key()
        if key < oldest:
            break
        chunk = _open_chunk(key, iterator.value())
        skip = sealed.skip if key == oldest else 0
        if until is None or chunk.first_timestamp_ms < until:
            parts.append(ChunkPart(key, chunk, skip))
        counted += chunk.n - skip
        if since is not None and chunk.first_timestamp_ms < since:
            is_complete = True
            break
        iterator.prev()
    else:
        _check(iterator)
    if counted < min(wanted, sealed.events) and not is_complete:
        raise CorruptRecordError(f"it counts {sealed.events} sealed events, but {counted} are stored", record="head")
    parts.reverse()
    return parts


def _open_chunk(key: bytes, data: bytes) -> Chunk:
    try:
        return Chunk.open(data)
    except CorruptRecordError as error:
        raise CorruptRecordError(error.what, record=keys.chunk_name(keys.chunk_fence(key))) from error


def _check(iterator: RdictIter) -> None:
    """Raise StoreError if an iterator is invalid because of an error and not because it is at its end."""
    try:
        iterator.status()
    except Exception as error:  # rocksdict raises bare Exception
        raise StoreError(f"RocksDB cannot read ({error}): check the disk, then restart the node") from error
