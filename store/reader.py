"""Reads of whole sequences: columns as NumPy arrays, one consistent view, no Python object an event."""

import threading
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from store import chunk, keys
from store.actions import Kind
from store.chunk import EventColumns
from store.embeddings import EmbeddingTable
from store.errors import CorruptRecordError, StoreError
from store.fingerprint import user_hash
from store.head import Head, segment_events, unpack_events
from store.partition import PartitionStore, View
from store.sequence import EMBEDDING_DIM, Column, Sequence, SequenceQuery, UserSequences


class SequenceReader:
    """Reads one partition. May be used from any thread."""

    def __init__(self, store: PartitionStore, embeddings: EmbeddingTable | None = None) -> None:
        """Without `embeddings` every embedding reads as zeros."""
        self.store, self._embeddings = store, embeddings
        self._rows_lock = threading.Lock()
        self._rows = np.empty(0, np.int64)
        self._rows_known = 0

    def read(self, user_id: str, query: SequenceQuery) -> UserSequences:
        """Return the user's sequences as `query` asks; sequences of length 0 for an unknown user.

        Raises CorruptRecordError, FormatVersionError, StoreFailedError.
        """
        user = user_hash(user_id.encode())
        try:
            with self.store.view() as view:
                sequences = {kind: self._read_kind(view, user, kind, query) for kind in query.kinds}
                return UserSequences(view.as_of, sequences)
        except CorruptRecordError as error:
            raise CorruptRecordError(error.what, partition=self.store.partition, user=user_id) from error

    def _read_kind(self, view: View, user: bytes, kind: Kind, query: SequenceQuery) -> Sequence:
        prefix = keys.sequence_prefix(user, kind)
        head, unsealed = _read_unsealed(view, prefix)
        if head is None:
            return self._select(EventColumns.concatenate([]), view.item_ids, query, stored=0)
        filtered = bool(query.action_types) or query.to_timestamp_ms is not None
        # With a filter the newest N of the sequence say nothing about the newest N that pass it.
        wanted = head.events if query.newest is None or filtered else query.newest
        parts = [unsealed.take(_order(unsealed, view.item_ids))]
        if head.sealed is not None and wanted > unsealed.n:
            parts = [*_read_chunks(view, prefix, head, wanted - unsealed.n, query.from_timestamp_ms), *parts]
        return self._select(EventColumns.concatenate(parts), view.item_ids, query, stored=head.events)

    def _select(
        self, events: EventColumns, item_ids: NDArray[np.uint64], query: SequenceQuery, *, stored: int
    ) -> Sequence:
        start, end = 0, events.n
        if query.from_timestamp_ms is not None:
            start = int(np.searchsorted(events.timestamp_ms, query.from_timestamp_ms))
        if query.to_timestamp_ms is not None:
            end = max(start, int(np.searchsorted(events.timestamp_ms, query.to_timestamp_ms)))
        events = events.take(slice(start, end))
        if query.action_types:
            wanted = np.zeros(256, np.bool_)
            wanted[[value for value in query.action_types if value < len(wanted)]] = True
            events = events.take(wanted[events.code >> 8])
        if query.newest is not None:
            events = events.take(slice(max(0, events.n - query.newest), None))
        columns = query.columns
        return Sequence(
            length=events.n,
            stored=stored,
            timestamp_ms=events.timestamp_ms if Column.TIMESTAMP_MS in columns else None,
            item_id=item_ids[events.ordinal] if Column.ITEM_ID in columns else None,
            action_type=(events.code >> 8).astype(np.uint8) if Column.ACTION_TYPE in columns else None,
            surface=events.code.astype(np.uint8) if Column.SURFACE in columns else None,
            embedding=self._gather(events.ordinal, item_ids) if Column.EMBEDDING in columns else None,
        )

    def _gather(self, ordinals: NDArray[np.uint32], item_ids: NDArray[np.uint64]) -> NDArray[np.int8]:
        if self._embeddings is None:
            return np.zeros((len(ordinals), EMBEDDING_DIM), np.int8)
        return self._embeddings.gather(self._embedding_rows(self._embeddings, item_ids)[ordinals])

    def _embedding_rows(self, embeddings: EmbeddingTable, item_ids: NDArray[np.uint64]) -> NDArray[np.int64]:
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


def _read_unsealed(view: View, prefix: bytes) -> tuple[Head | None, EventColumns]:
    rows = view.rows
    rows.seek(keys.head_key(prefix))
    if not rows.valid() or rows.key() != keys.head_key(prefix):
        _check(rows)
        return None, EventColumns.concatenate([])
    head = Head.unpack(rows.value())
    parts = []
    for number in range(head.segment_first, head.segment_next):
        rows.next()
        if not rows.valid() or rows.key() != keys.segment_key(prefix, number):
            raise CorruptRecordError(f"segment {number} is missing")
        parts.append(segment_events(rows.value()))
    events = unpack_events(b"".join([*parts, head.inline]))
    if events.n != head.unsealed:
        raise CorruptRecordError(f"a head counts {head.unsealed} unsealed events, and {events.n} are there")
    return head, events


def _read_chunks(
    view: View, prefix: bytes, head: Head, wanted: int, from_timestamp_ms: int | None
) -> Iterable[EventColumns]:
    """Decode chunks, newest first, until `wanted` events or `from_timestamp_ms` are reached; oldest first out."""
    sealed = head.sealed
    if sealed is None:
        return []
    parts: list[EventColumns] = []
    oldest = keys.chunk_key(prefix, sealed.oldest)
    found, reached = 0, False
    iterator = view.chunks
    iterator.seek_for_prev(keys.after(prefix))
    while found < wanted and iterator.valid():
        key = iterator.key()
        if key < oldest:
            break
        data = iterator.value()
        part = chunk.decode(data)
        if key == oldest:
            part = part.take(slice(sealed.skip, None))
        parts.append(part)
        found += part.n
        if from_timestamp_ms is not None and part.timestamp_ms[0] < from_timestamp_ms:
            reached = True
            break
        iterator.prev()
    else:
        _check(iterator)
    if found < min(wanted, sealed.events) and not reached:
        raise CorruptRecordError(f"a head counts {sealed.events} sealed events, and {found} are there")
    return reversed(parts)


def _order(events: EventColumns, item_ids: NDArray[np.uint64]) -> NDArray[np.int64]:
    return np.lexsort((events.code, item_ids[events.ordinal], events.timestamp_ms))


def _check(iterator: object) -> None:
    """Raise what made an iterator invalid, if it was not simply its end."""
    try:
        iterator.status()  # type: ignore[attr-defined]
    except Exception as error:  # rocksdict raises bare Exception
        raise StoreError(f"RocksDB cannot read ({error}): check the disk, then restart the node") from error
