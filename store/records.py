"""The records of a user's sequences, as a view finds them: still encoded, and enough to tell whether any changed."""

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


class Part(NamedTuple):
    """A chunk that a read needs."""

    key: bytes
    chunk: Chunk
    skip: int
    """Trimmed events at its start."""


class SequenceRecords(NamedTuple):
    """What a query needs of one sequence."""

    head: Head
    head_record: bytes
    segments: list[bytes]
    chunks: list[Part]
    """Oldest first."""

    @property
    def stamp(self) -> tuple[bytes, ...]:
        """Records in full, but for a chunk its key and its header, which has the checksum of all its bytes."""
        return (self.head_record, *self.segments, *(part.key + part.chunk.header for part in self.chunks))


class UserRecords(NamedTuple):
    """What a query needs of one user, all from one view."""

    user_id: str
    as_of: AsOf
    item_ids: NDArray[np.uint64]
    """uint64[m]: the item id of each ordinal."""
    sequences: Mapping[Kind, SequenceRecords | None]
    """One for every kind asked for; None where the user has no events of it."""

    @property
    def stamp(self) -> tuple[object, ...]:
        """It equals that of another read by the same query, of the same open partition, if the same events are there.

        And only then: whoever remembers it knows what became of the user since, whatever the partition applied.
        """
        return tuple(None if records is None else records.stamp for records in self.sequences.values())


def find_sequence(view: View, user_id: str, kind: Kind, query: SequenceQuery) -> SequenceRecords | None:
    """Return what a query needs of a sequence; None where it has no events. Raises CorruptRecordError, StoreError."""
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
        # At the end there is no key.
        if key() != keys.segment_key(prefix, number):
            _check(rows)
            raise CorruptRecordError("it is missing", record=f"segment {number}")
        segments.append(value())
    newest = newest_of(query)
    wanted = (head.events if newest is None else newest) - head.unsealed
    return SequenceRecords(head, record, segments, _find_chunks(view, prefix, head, wanted, query))


def newest_of(query: SequenceQuery) -> int | None:
    """Return how many of the newest events of a sequence are enough for a query; None: there is no telling."""
    # With a filter the newest N of the sequence say nothing about the newest N that pass it.
    return None if query.action_types or query.to_timestamp_ms is not None else query.newest


def _find_chunks(view: View, prefix: bytes, head: Head, wanted: int, query: SequenceQuery) -> list[Part]:
    """Return the chunks that the newest `wanted` sealed events of the query's times are in; oldest first."""
    sealed = head.sealed
    if sealed is None or wanted <= 0:
        return []
    parts: list[Part] = []
    oldest = keys.chunk_key(prefix, sealed.oldest)
    since, until = query.from_timestamp_ms, query.to_timestamp_ms
    found, reached = 0, False
    iterator = view.chunks
    iterator.seek_for_prev(keys.after(prefix))
    while found < wanted and iterator.valid():
        key = iterator.key()
        if key < oldest:
            break
        chunk = _named_chunk(key, iterator.value())
        skip = sealed.skip if key == oldest else 0
        if until is None or chunk.first_timestamp_ms < until:
            parts.append(Part(key, chunk, skip))
        found += chunk.n - skip
        if since is not None and chunk.first_timestamp_ms < since:
            reached = True
            break
        iterator.prev()
    else:
        _check(iterator)
    if found < min(wanted, sealed.events) and not reached:
        raise CorruptRecordError(f"it counts {sealed.events} sealed events, and {found} are there", record="head")
    parts.reverse()
    return parts


def _named_chunk(key: bytes, data: bytes) -> Chunk:
    try:
        return Chunk.open(data)
    except CorruptRecordError as error:
        raise CorruptRecordError(error.what, record=keys.chunk_name(keys.chunk_fence(key))) from error


def _check(iterator: RdictIter) -> None:
    """Raise what made an iterator invalid, if it was not simply its end."""
    try:
        iterator.status()
    except Exception as error:  # rocksdict raises bare Exception
        raise StoreError(f"RocksDB cannot read ({error}): check the disk, then restart the node") from error
