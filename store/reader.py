"""Reads of whole sequences: columns as NumPy arrays, one consistent view, no Python object an event."""

import threading
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rocksdict import RdictIter

from store import keys
from store.actions import Kind
from store.chunk import Chunk, EventColumns, Wanted, decode, decode_all
from store.embeddings import Embeddings
from store.errors import CorruptRecordError, StoreError
from store.head import Head
from store.open_partition import OpenPartition, View
from store.segment import join_segments, split_segments
from store.sequence import EMBEDDING_DIM, Column, Sequence, SequenceQuery, UserSequences
from store.sequence_editor import ascending, chunk_name

# Numbers: operators of Flag build an object each, which a read of a few events would feel.
_TIMESTAMP_MS, _ITEM_ID = Column.TIMESTAMP_MS.value, Column.ITEM_ID.value
_ACTION_TYPE, _SURFACE = Column.ACTION_TYPE.value, Column.SURFACE.value
_EMBEDDING = Column.EMBEDDING.value


class SequenceReader:
    """Reads one partition. May be used from any thread."""

    def __init__(
        self, store: OpenPartition, embeddings: Embeddings | None = None, lag: Callable[[], int] = lambda: 0
    ) -> None:
        """Without `embeddings` every embedding reads as zeros; `lag` gives the records still to be applied."""
        self.store, self._embeddings, self._lag = store, embeddings, lag
        self._rows_lock = threading.Lock()
        self._rows = np.empty(0, np.int64)
        self._rows_known = 0

    def read(self, user_id: str, query: SequenceQuery) -> UserSequences:
        """Return the user's sequences as `query` asks; sequences of length 0 for an unknown user.

        Raises CorruptRecordError, FormatVersionError, StoreFailedError.
        """
        return self.read_many([user_id], query)[0]

    def read_many(self, user_ids: Iterable[str], query: SequenceQuery) -> list[UserSequences]:
        """Return the sequences of each user, all from one view. Raises as `read` does."""
        answers = []
        with self.store.view() as view:
            for user_id in user_ids:
                try:
                    sequences = {kind: self._read_kind(view, user_id, kind, query) for kind in query.kinds}
                except CorruptRecordError as error:
                    raise CorruptRecordError(
                        error.what, partition=self.store.partition, user=user_id, record=error.record
                    ) from error
                answers.append(UserSequences(view.as_of._replace(lag_records=self._lag()), sequences))
        found = sum(any(one.stored for one in answer.sequences.values()) for answer in answers)
        self.store.reads.add(found, len(answers) - found)
        return answers

    def _read_kind(self, view: View, user_id: str, kind: Kind, query: SequenceQuery) -> Sequence:
        prefix = keys.sequence_prefix(user_id.encode(), kind)
        # With a filter the newest N of the sequence say nothing about the newest N that pass it.
        filtered = bool(query.action_types) or query.to_timestamp_ms is not None
        newest = None if filtered else query.newest
        head, unsealed = _read_unsealed(view, prefix, newest)
        if head is None:
            return self._sequence(EventColumns.empty(), 0, 0, query, view)
        wanted = head.events if newest is None else newest
        wanted_columns = _wanted_columns(query)
        sealed: list[_Part] = []
        if head.sealed is not None and wanted > unsealed.n:
            sealed = _find_chunks(view, prefix, head, wanted - unsealed.n, query)
        at = sum(part.chunk.n for part in sealed)
        events = EventColumns.empty(at + unsealed.n)
        _decode_parts(sealed, events, wanted_columns)
        events.timestamp_ms[at:], events.ordinal[at:], events.code[at:] = unsealed
        if at and wanted_columns.ordinals and int(events.ordinal[:at].max()) >= len(view.item_ids):
            raise CorruptRecordError("a chunk names an item that the partition does not have")
        first = sealed[0].skip if sealed else 0
        return self._sequence(events, first, head.events, query, view)

    def _sequence(self, events: EventColumns, first: int, stored: int, query: SequenceQuery, view: View) -> Sequence:
        start, end = first, events.n
        if query.from_timestamp_ms is not None:
            start += int(np.searchsorted(events.timestamp_ms[start:], query.from_timestamp_ms))
        if query.to_timestamp_ms is not None:
            end = max(start, start + int(np.searchsorted(events.timestamp_ms[start:], query.to_timestamp_ms)))
        newest = query.newest
        if newest is not None and not query.action_types:
            start = max(start, end - newest)
        if start or end < events.n:
            events = events.take(slice(start, end))
        if query.action_types:
            wanted = np.zeros(256, np.bool_)
            wanted[[value for value in query.action_types if value < len(wanted)]] = True
            passing = np.flatnonzero(wanted[events.code >> 8])
            events = events.take(passing if newest is None else passing[max(0, len(passing) - newest) :])
        columns = query.columns.value
        return Sequence(
            length=events.n,
            stored=stored,
            timestamp_ms=events.timestamp_ms if columns & _TIMESTAMP_MS else None,
            item_id=view.item_ids.take(events.ordinal) if columns & _ITEM_ID else None,
            action_type=(events.code >> 8).astype(np.uint8) if columns & _ACTION_TYPE else None,
            surface=events.code.astype(np.uint8) if columns & _SURFACE else None,
            embedding=self._gather(events.ordinal, view.item_ids) if columns & _EMBEDDING else None,
        )

    def _gather(self, ordinals: NDArray[np.uint32], item_ids: NDArray[np.uint64]) -> NDArray[np.int8]:
        if self._embeddings is None:
            return np.zeros((len(ordinals), EMBEDDING_DIM), np.int8)
        return self._embeddings.gather(self._embedding_rows(self._embeddings, item_ids).take(ordinals))

    def _embedding_rows(self, embeddings: Embeddings, item_ids: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Return the embedding row of each ordinal. A row never moves, so only unknown ones are looked up again."""
        with self._rows_lock:
            known = len(embeddings)
            if len(self._rows) < len(item_ids) or self._rows_known != known:
                rows = np.zeros(max(len(item_ids), len(self._rows)), np.int64)
                rows[: len(self._rows)] = self._rows
                unknown = np.flatnonzero(rows[: len(item_ids)] == 0)
                rows[unknown] = embeddings.rows_of(item_ids[unknown])
                self._rows, self._rows_known = rows, known
            return self._rows


def _wanted_columns(query: SequenceQuery) -> Wanted:
    """Return which columns of chunks a query needs."""
    columns = query.columns.value
    ranged = query.from_timestamp_ms is not None or query.to_timestamp_ms is not None
    return Wanted(
        ranged or bool(columns & _TIMESTAMP_MS),
        bool(columns & (_ITEM_ID | _EMBEDDING)),
        bool(query.action_types) or bool(columns & (_ACTION_TYPE | _SURFACE)),
    )


class _Part(NamedTuple):
    """A chunk that a read needs."""

    key: bytes
    chunk: Chunk
    skip: int
    """Trimmed events at its start."""


def _read_unsealed(view: View, prefix: bytes, newest: int | None) -> tuple[Head | None, EventColumns]:
    """Return a head and its unsealed events, ascending: all of them, or at least the `newest` ones."""
    rows = view.rows
    rows.seek(prefix)
    if rows.key() != prefix:
        _check(rows)
        return None, EventColumns.empty()
    try:
        head = Head.unpack(rows.value(), len(view.item_ids))
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
    runs, raw = split_segments(segments, head.inline)
    counted = raw.n + sum(run.n for run in runs)
    if counted != head.unsealed:
        raise CorruptRecordError(f"it counts {head.unsealed} unsealed events, and {counted} are there", record="head")
    if newest and raw.n >= newest:
        # A run that ends before all of these has none of the newest.
        since = np.partition(raw.timestamp_ms, raw.n - newest)[raw.n - newest]
        runs = [run for run in runs if run.last_timestamp_ms >= since]
    events = join_segments(runs, raw)
    return head, events.take(ascending(events, view.item_ids))


def _decode_parts(parts: list[_Part], into: EventColumns, wanted: Wanted) -> None:
    try:
        decode_all([part.chunk for part in parts], into, wanted)
    except CorruptRecordError:
        # Which of them it is matters only now.
        for part in parts:
            try:
                decode(part.chunk.data)
            except CorruptRecordError as error:
                raise CorruptRecordError(error.what, record=chunk_name(keys.chunk_fence(part.key))) from error
        raise


def _find_chunks(view: View, prefix: bytes, head: Head, wanted: int, query: SequenceQuery) -> list[_Part]:
    """Return the chunks that the newest `wanted` sealed events of the query's times are in; oldest first."""
    sealed = head.sealed
    if sealed is None:
        return []
    parts: list[_Part] = []
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
            parts.append(_Part(key, chunk, skip))
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
        raise CorruptRecordError(error.what, record=chunk_name(keys.chunk_fence(key))) from error


def _check(iterator: RdictIter) -> None:
    """Raise what made an iterator invalid, if it was not simply its end."""
    try:
        iterator.status()
    except Exception as error:  # rocksdict raises bare Exception
        raise StoreError(f"RocksDB cannot read ({error}): check the disk, then restart the node") from error
