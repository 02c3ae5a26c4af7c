"""Reads of whole sequences from one consistent view, as NumPy columns without a Python object for each event."""

import threading
from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from lifeline.core.sequence import EMBEDDING_DIM, Column, Sequence, SequenceQuery, UserSequences
from lifeline.store import keys
from lifeline.store.chunk import ColumnSelection, EventColumns, decode, decode_all
from lifeline.store.database import View
from lifeline.store.embeddings import Embeddings
from lifeline.store.errors import CorruptRecordError, NotYetAppliedError
from lifeline.store.event_order import ascending
from lifeline.store.readable_partition import ReadablePartition
from lifeline.store.records import ChunkPart, SequenceRecords, UserRecords, find_sequence, newest_needed
from lifeline.store.segment import join_segments, split_segments

# Plain integers: each operation on a Flag creates an object, which is noticeable in a read of a few events.
_TIMESTAMP_MS, _ITEM_ID = Column.TIMESTAMP_MS.value, Column.ITEM_ID.value
_ACTION_TYPE, _SURFACE = Column.ACTION_TYPE.value, Column.SURFACE.value
_EMBEDDING = Column.EMBEDDING.value


class SequenceReader:
    """Reads one partition. Every method may be called from any thread."""

    def __init__(
        self,
        store: ReadablePartition,
        embeddings: Embeddings | None = None,
        lag: Callable[[], int] = lambda: 0,
        blocked: Callable[[], str] = str,
    ) -> None:
        """Without `embeddings` every embedding is zeros. `lag` returns the number of records not applied yet.

        `blocked` returns why none of them will be applied before somebody acts; an empty text if they will be.
        """
        self.store, self.embeddings, self._lag, self._blocked = store, embeddings, lag, blocked
        self._rows_lock = threading.Lock()
        self._rows = np.empty(0, np.int64)
        self._rows_embedded = 0

    @property
    def known_offset(self) -> int:
        """The last known offset of the partition's log; -1 before the first."""
        return self.store.applied_offset + self._lag()

    def check_applies(self, offset: int) -> None:
        """Raise NotYetAppliedError if `offset` is not applied, and will not be before somebody acts."""
        applied = self.store.applied_offset
        if applied < offset and (why := self._blocked()):
            raise NotYetAppliedError(self.store.partition, offset, applied, why)

    def read(self, user_id: str, query: SequenceQuery) -> UserSequences:
        """Return the user's sequences that match `query`; sequences of length 0 for an unknown user.

        Raises CorruptRecordError, FormatVersionError, StoreFailedError.
        """
        return self.read_many([user_id], query)[0]

    def read_many(self, user_ids: Iterable[str], query: SequenceQuery) -> list[UserSequences]:
        """Return the sequences of each user, all from one view. Raises as `read` does."""
        with self.store.view() as view:
            return [self.decode(self._find(view, user_id, query), query) for user_id in user_ids]

    def records(self, user_id: str, query: SequenceQuery) -> UserRecords:
        """Return the stored records that `decode` needs: the cheaper step of a read. Raises as `read` does."""
        with self.store.view() as view:
            return self._find(view, user_id, query)

    def decode(self, records: UserRecords, query: SequenceQuery) -> UserSequences:
        """Decode records that `records` returned for the same query. Raises as `read` does."""
        try:
            sequences = {
                kind: self._decode(sequence, records.item_ids, query) for kind, sequence in records.sequences.items()
            }
        except CorruptRecordError as error:
            raise self._with_user(error, records.user_id) from error
        return UserSequences(records.as_of, sequences)

    def _find(self, view: View, user_id: str, query: SequenceQuery) -> UserRecords:
        try:
            sequences = {kind: find_sequence(view, user_id, kind, query) for kind in query.kinds}
        except CorruptRecordError as error:
            raise self._with_user(error, user_id) from error
        has_events = any(records is not None and records.head.events for records in sequences.values())
        self.store.reads.add(has_events, not has_events)
        return UserRecords(user_id, view.as_of._replace(lag_records=self._lag()), view.item_ids, sequences)

    def _with_user(self, error: CorruptRecordError, user_id: str) -> CorruptRecordError:
        """Return the error with the partition and the user added."""
        return CorruptRecordError(error.what, partition=self.store.partition, user=user_id, record=error.record)

    def _decode(self, records: SequenceRecords | None, item_ids: NDArray[np.uint64], query: SequenceQuery) -> Sequence:
        if records is None:
            return self._sequence(EventColumns.empty(), 0, 0, query, item_ids)
        unsealed = _decode_unsealed(records, item_ids, newest_needed(query))
        sealed, columns = records.chunks, _columns_of(query)
        at = sum(part.chunk.n for part in sealed)
        events = EventColumns.empty(at + unsealed.n)
        _decode_parts(sealed, events, columns)
        events.timestamp_ms[at:], events.ordinal[at:], events.code[at:] = unsealed
        if at and columns.ordinals and int(events.ordinal[:at].max()) >= len(item_ids):
            raise CorruptRecordError("a chunk has an item ordinal that the partition does not have")
        first = sealed[0].skip if sealed else 0
        return self._sequence(events, first, records.head.events, query, item_ids)

    def _sequence(
        self, events: EventColumns, first: int, stored: int, query: SequenceQuery, item_ids: NDArray[np.uint64]
    ) -> Sequence:
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
            is_selected = np.zeros(256, np.bool_)
            is_selected[[value for value in query.action_types if value < len(is_selected)]] = True
            rows = np.flatnonzero(is_selected[events.code >> 8])
            events = events.take(rows if newest is None else rows[max(0, len(rows) - newest) :])
        columns = query.columns.value
        return Sequence(
            length=events.n,
            stored=stored,
            timestamp_ms=events.timestamp_ms if columns & _TIMESTAMP_MS else None,
            item_id=item_ids.take(events.ordinal) if columns & _ITEM_ID else None,
            action_type=(events.code >> 8).astype(np.uint8) if columns & _ACTION_TYPE else None,
            surface=events.code.astype(np.uint8) if columns & _SURFACE else None,
            embedding=self._gather(events.ordinal, item_ids) if columns & _EMBEDDING else None,
        )

    def _gather(self, ordinals: NDArray[np.uint32], item_ids: NDArray[np.uint64]) -> NDArray[np.int8]:
        if self.embeddings is None:
            return np.zeros((len(ordinals), EMBEDDING_DIM), np.int8)
        return self.embeddings.gather(self._embedding_rows(self.embeddings, item_ids).take(ordinals))

    def _embedding_rows(self, embeddings: Embeddings, item_ids: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Return int64[m]: the embedding row of each ordinal, 0 for none. Only zeros are looked up again."""
        with self._rows_lock:
            embedded = len(embeddings)
            if len(self._rows) < len(item_ids) or self._rows_embedded != embedded:
                rows = np.zeros(max(len(item_ids), len(self._rows)), np.int64)
                rows[: len(self._rows)] = self._rows
                unknown = np.flatnonzero(rows[: len(item_ids)] == 0)
                rows[unknown] = embeddings.rows_of(item_ids[unknown])
                self._rows, self._rows_embedded = rows, embedded
            return self._rows


def _columns_of(query: SequenceQuery) -> ColumnSelection:
    """Return the columns of chunks that a query needs."""
    columns = query.columns.value
    has_time_range = query.from_timestamp_ms is not None or query.to_timestamp_ms is not None
    return ColumnSelection(
        has_time_range or bool(columns & _TIMESTAMP_MS),
        bool(columns & (_ITEM_ID | _EMBEDDING)),
        bool(query.action_types) or bool(columns & (_ACTION_TYPE | _SURFACE)),
    )


def _decode_unsealed(records: SequenceRecords, item_ids: NDArray[np.uint64], newest: int | None) -> EventColumns:
    """Return the unsealed events, ascending: all of them, or at least the `newest` ones."""
    runs, raw = split_segments(records.segments, records.head.inline)
    stored = raw.n + sum(run.n for run in runs)
    if stored != records.head.unsealed:
        raise CorruptRecordError(
            f"it counts {records.head.unsealed} unsealed events, but {stored} are stored", record="head"
        )
    if newest and raw.n >= newest:
        # A run whose last event is older than the newest N raw events has none of the newest N.
        since = np.partition(raw.timestamp_ms, raw.n - newest)[raw.n - newest]
        runs = [run for run in runs if run.last_timestamp_ms >= since]
    events = join_segments(runs, raw)
    return events.take(ascending(events, item_ids))


def _decode_parts(parts: list[ChunkPart], into: EventColumns, columns: ColumnSelection) -> None:
    try:
        decode_all([part.chunk for part in parts], into, columns)
    except CorruptRecordError:
        # Find out which chunk is corrupt.
        for part in parts:
            try:
                decode(part.chunk.data)
            except CorruptRecordError as error:
                raise CorruptRecordError(error.what, record=keys.chunk_name(keys.chunk_fence(part.key))) from error
        raise
