"""The changes that one batch makes to the sequences of a partition, collected until they are written.

Of what the partition has in memory, only new item ids change before the write; the partition removes them if it fails.
Heads leave the cache, and return to it after the write.

In most sequences of a batch, new events are only appended to the head; `_append` edits all their packed records at
once. A `SequenceEditor` edits each of the other sequences.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rocksdict import WriteBatch

from lifeline.core.actions import ActionBatch, Kind
from lifeline.store import fingerprint as fp
from lifeline.store import keys
from lifeline.store.chunk import EventColumns
from lifeline.store.database import PartitionDatabase
from lifeline.store.errors import CorruptRecordError
from lifeline.store.expiry import AgeLimits
from lifeline.store.grouping import GroupedBatch
from lifeline.store.head import Head
from lifeline.store.head_cache import DecodedParts, HeadShare
from lifeline.store.packed_heads import PackedHeads
from lifeline.store.rocksdb import get_many, keys_between
from lifeline.store.segment import EVENT_BYTES, pack_events
from lifeline.store.sequence_editor import SequenceEditor, Shape
from lifeline.store.settings import StoreSettings

_NO_HEAD = Head().pack()


class SequenceRules:
    """The settings of sequences: the shape by kind, and the maximum ages."""

    def __init__(self, settings: StoreSettings) -> None:
        self.shapes: dict[int, Shape] = {
            kind: Shape(
                settings.cap(kind),
                settings.inline_events,
                settings.chunk_events,
                settings.keep_unsealed,
                settings.run_segments,
            )
            for kind in Kind
        }
        self.caps = np.array([self.shapes[kind].cap for kind in Kind])
        """int64[kinds]."""
        self.ages = AgeLimits(settings)


class EventSum(NamedTuple):
    """A number of events and the sum of their hashes."""

    events: int = 0
    hashes: int = 0


class EditResult(NamedTuple):
    """The effect of the edits of a batch."""

    trimmed_events: int
    """Events that the cap or their age removed."""
    trimmed_hashes: int
    """The sum of their hashes."""
    sealed_chunks: int
    late_rewrites: int


@dataclass(slots=True)
class _Position:
    """The sequence that is currently edited."""

    prefix: bytes = b""


class BatchEditor:
    """Edits the sequences of one partition; one writer at a time uses it."""

    def __init__(self, database: PartitionDatabase, heads: HeadShare, rules: SequenceRules) -> None:
        self._database, self._heads, self._rules = database, heads, rules
        self._records: dict[bytes, bytes] = {}
        """Head records, by prefix."""
        self._decoded: dict[bytes, DecodedParts] = {}
        self._editors: dict[bytes, SequenceEditor] = {}
        self._rows: dict[bytes, bytes | None] = {}
        self._chunks: dict[bytes, bytes | None] = {}
        self._meta: dict[bytes, bytes | None] = {}

    def expire(self, before_ms: int, watermark_ms: int) -> int:
        """Remove the events that expire as the watermark moves from `before_ms` to `watermark_ms`; returns how many."""
        ages = self._rules.ages
        old_horizons = ages.horizons(before_ms)
        expired = 0
        for kind, horizon in ages.horizons(watermark_ms).items():
            if old_horizons.get(kind) == horizon:
                continue
            due = keys_between(self._database.meta, *keys.expiry_due(kind, keys.hour_of(horizon)))
            self._take_heads([keys.expiry_prefix(key) for key in due])
            with self._naming_sequence() as position:
                for key in due:
                    position.prefix = keys.expiry_prefix(key)
                    if position.prefix not in self._records:
                        raise CorruptRecordError("a sequence with an expiry key has no head")
                    editor = self._editor(position.prefix)
                    editor.expire(horizon)
                    expired += sum(part.n for part in editor.trimmed)
                    self._meta[key] = None
                    editor.head.expiry_hour = None
        return expired

    def insert(self, batch: ActionBatch) -> EventSum:
        """Insert the events of a batch, which must not be empty."""
        columns, database = GroupedBatch.of(batch), self._database
        ordinals = database.items.add(columns.item_id).astype(np.uint32)
        events = EventColumns(columns.timestamp_ms, ordinals, columns.code)
        self._take_heads([prefix for prefix in columns.prefixes if prefix not in self._editors])
        inserted = np.ones(events.n, np.bool_)
        packed = pack_events(events)
        with self._naming_sequence() as position:
            for index in self._append(columns, packed):
                position.prefix, start, end = columns.prefixes[index], columns.starts[index], columns.ends[index]
                editor = self._editor(position.prefix)
                if columns.first_ms[index] > editor.head.newest_ms:
                    editor.append(packed[start * EVENT_BYTES : end * EVENT_BYTES], columns.last_ms[index])
                    continue
                was_new = editor.insert(events.take(slice(start, end)))
                if was_new is not None:
                    inserted[start:end] = was_new
        hashes = fp.event_hashes(
            columns.users[inserted],
            columns.timestamp_ms[inserted],
            columns.item_id[inserted],
            columns.kind[inserted],
            columns.code[inserted],
        )
        return EventSum(int(inserted.sum()), fp.total(*hashes))

    def _append(self, columns: GroupedBatch, packed: bytes) -> list[int]:
        """Append to the sequences in which only the head changes; returns the indices of the other sequences.

        `packed` is 14 bytes for each row.
        """
        prefixes, starts, ends = columns.prefixes, columns.starts, columns.ends
        rules = self._rules
        records = [self._records.get(prefix, _NO_HEAD) for prefix in prefixes]
        heads = PackedHeads.read(records, len(self._database.items))
        counts = np.array(ends) - np.array(starts)
        kinds = columns.kind[starts]
        shape = rules.shapes[Kind.EXPLICIT]
        fits = (
            heads.valid
            & (np.array(columns.first_ms) > heads.newest_ms)
            & (heads.inline + counts <= shape.inline_events)
            & (heads.unsealed + counts < shape.chunk_events + shape.keep_unsealed)
            & (heads.events + counts <= rules.caps[kinds])
            & (heads.has_hour | ~rules.ages.has_limit[kinds])
        )
        if self._editors:
            fits &= [prefix not in self._editors for prefix in prefixes]
        first_bytes = heads.starts(counts)
        appended = {}
        for index, (prefix, record, tail, start, end, fit) in enumerate(
            zip(prefixes, records, heads.tails(), starts, ends, fits.tolist(), strict=True)
        ):
            if fit:
                appended[prefix] = (
                    first_bytes[index * 4 : index * 4 + 4]
                    + record[tail:]
                    + packed[start * EVENT_BYTES : end * EVENT_BYTES]
                )
        self._rows.update(appended)
        self._records.update(appended)
        others: list[int] = np.flatnonzero(~fits).tolist()
        return others

    def finish(self) -> EditResult:
        """Finish all edits and collect the changed records."""
        trimmed: list[tuple[bytes, EventColumns]] = []
        sealed = late = 0
        ages = self._rules.ages
        with self._naming_sequence() as position:
            for position.prefix, editor in self._editors.items():
                prefix = position.prefix
                if ages.hours:
                    ages.update_key(editor, self._meta)
                record = editor.finish()
                self._rows.update(editor.rows)
                self._chunks.update(editor.chunks)
                trimmed += [(prefix, part) for part in editor.trimmed]
                sealed += editor.sealed_chunks
                late += editor.late_rewrites
                if record is None:
                    self._records.pop(prefix, None)
                    continue
                self._records[prefix] = record
                if editor.decoded:
                    self._decoded[prefix] = editor.decoded
        return EditResult(sum(part.n for _, part in trimmed), self._sum_hashes(trimmed), sealed, late)

    def put(self, write: WriteBatch) -> None:
        """Add all records to the write batch."""
        handles = self._database.handles
        for name, records in (("rows", self._rows), ("chunks", self._chunks), ("meta", self._meta)):
            handle = handles[name]
            # Inserting sorted keys into the memtable's skip list is a fifth faster.
            for key in sorted(records):
                data = records[key]
                if data is None:
                    write.delete(key, handle)
                else:
                    write.put(key, data, handle)

    def cache_heads(self) -> None:
        """Put the heads into the cache, once the batch is written."""
        self._heads.put_many(self._records, self._decoded)

    def erase(self, user_id: bytes, write: WriteBatch) -> EventSum:
        """Add the deletion of a user's records to the write batch; returns the sum of the user's events."""
        events = hashes = 0
        handles = self._database.handles
        self._take_heads([keys.sequence_prefix(user_id, kind) for kind in Kind])
        with self._naming_sequence() as position:
            for position.prefix in self._records:
                editor = self._editor(position.prefix)
                retained = editor.all_events()
                events += retained.n
                hashes += self._sum_hashes([(position.prefix, retained)])
                if editor.head.expiry_hour is not None:
                    write.delete(keys.expiry_key(position.prefix, editor.head.expiry_hour), handles["meta"])
        user = keys.user_prefix(user_id)
        for name in ("rows", "chunks"):
            write.delete_range(user, keys.prefix_end(user), handles[name])
        return EventSum(events, hashes)

    def _take_heads(self, prefixes: list[bytes]) -> None:
        """Load the existing head records into `_records`, from the cache or from disk."""
        taken = self._heads.take_many(prefixes)
        self._records.update(taken.records)
        self._decoded.update(taken.decoded)
        if len(taken.records) < len(prefixes):
            missing = [prefix for prefix in prefixes if prefix not in taken.records]
            stored = zip(missing, get_many(self._database.rows, missing), strict=True)
            self._records.update((prefix, data) for prefix, data in stored if data is not None)

    def _editor(self, prefix: bytes) -> SequenceEditor:
        """Return the editor of a sequence whose head is loaded; raises CorruptRecordError."""
        editor = self._editors.get(prefix)
        if editor is None:
            record, database = self._records.get(prefix), self._database
            try:
                head = Head() if record is None else Head.unpack(record, len(database.items))
            except CorruptRecordError as error:
                raise CorruptRecordError(error.what, record="head") from error
            editor = self._editors[prefix] = SequenceEditor(
                prefix,
                head,
                self._decoded.pop(prefix, None) if self._decoded else None,
                self._rules.shapes[keys.kind_of(prefix)],
                database.rows,
                database.chunks,
                self._item_ids,
            )
        return editor

    def _item_ids(self) -> NDArray[np.uint64]:
        return self._database.items.ids

    @contextmanager
    def _naming_sequence(self) -> Iterator[_Position]:
        """Add the partition and the current user to a CorruptRecordError."""
        position = _Position()
        try:
            yield position
        except CorruptRecordError as error:
            user = keys.user_of(position.prefix).decode(errors="replace")
            raise CorruptRecordError(
                error.what, partition=self._database.partition, user=user, record=error.record
            ) from error

    def _sum_hashes(self, parts: list[tuple[bytes, EventColumns]]) -> int:
        if not parts:
            return 0
        events = EventColumns.concatenate([part for _, part in parts])
        counts = [part.n for _, part in parts]
        users = np.frombuffer(b"".join(fp.user_hash(keys.user_of(prefix)) for prefix, _ in parts), np.uint64)
        kinds = np.frombuffer(bytes(prefix[-1] for prefix, _ in parts), np.uint8)
        hashes = fp.event_hashes(
            users.reshape(-1, 2).repeat(counts, axis=0),
            events.timestamp_ms,
            self._database.items.ids[events.ordinal],
            kinds.repeat(counts),
            events.code,
        )
        return fp.total(*hashes)
