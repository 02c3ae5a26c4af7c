"""The partition store: one RocksDB for one partition of the actions topic, opened to write.

`apply` writes events, new items, heads, applied offset and fingerprint in one WriteBatch, so a crash leaves
either all of a micro-batch or nothing of it. With durability `process` the write-ahead log is not synced: a
killed process loses nothing, and after a power loss the applied offset makes Kafka give the missing suffix
again. With `power` a thread syncs it (durability.py), and `durable_offset` says how far.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from operator import add
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from rocksdict import Checkpoint, Rdict, WriteBatch

from lifeline.core.actions import ActionBatch, Kind
from lifeline.store import fingerprint as fp
from lifeline.store import keys
from lifeline.store.chunk import EventColumns
from lifeline.store.durability import GroupCommit
from lifeline.store.erasure import Scrubber
from lifeline.store.errors import CorruptRecordError, StoreError
from lifeline.store.grouping import GroupedBatch
from lifeline.store.head import Head
from lifeline.store.head_cache import Remembered
from lifeline.store.memory import SharedMemory, compact_range, get_many, keys_between
from lifeline.store.packed_heads import PackedHeads
from lifeline.store.readable_partition import FAMILIES, ITEMS_BLOCK, ReadablePartition
from lifeline.store.retention import RetentionPolicy
from lifeline.store.rocksdb import open_to_write
from lifeline.store.segment import EVENT_BYTES, pack_events
from lifeline.store.sequence_editor import SequenceEditor, Shape
from lifeline.store.settings import StoreSettings
from lifeline.store.state import State

_NO_HEAD = Head().pack()


class ApplyResult(NamedTuple):
    """What one batch did."""

    inserted: int = 0
    """Events that were new to their sequence."""
    repeated: int = 0
    """Events that stood in it already, or are older than what it keeps."""
    trimmed: int = 0
    """Events that the cap dropped."""
    expired: int = 0
    """Events that grew too old."""
    sealed_chunks: int = 0
    """Chunks sealed."""
    late_rewrites: int = 0
    """Chunks rewritten for late events."""

    def plus(self, other: "ApplyResult") -> "ApplyResult":
        """Return what two batches did together."""
        return ApplyResult(*map(add, self, other))


class PartitionStore(ReadablePartition):
    """One writer (`apply`, `erase`) besides the readers; every method may be called from any thread."""

    def __init__(self, db: Rdict, path: Path, partition: int, settings: StoreSettings, memory: SharedMemory) -> None:
        """Use `PartitionStore.open`."""
        super().__init__(db, path, partition)
        asked = RetentionPolicy.of(settings)
        with self._letting_go():
            if self.contract is None:
                self.contract = asked
                self._meta.put(keys.CONTRACT_KEY, asked.pack())
            self.contract.check(asked)
        self._handles = {name: db.get_column_family_handle(name) for name in FAMILIES}
        self._shapes: dict[int, Shape] = {
            kind: Shape(
                settings.cap(kind),
                settings.inline_events,
                settings.chunk_events,
                settings.keep_unsealed,
                settings.run_segments,
            )
            for kind in Kind
        }
        self._ages: dict[int, int] = {
            kind: hours for kind in Kind if (hours := settings.max_age_hours(kind)) is not None
        }
        self._caps = np.array([self._shapes[kind].cap for kind in Kind])
        self._aged = np.array([kind in self._ages for kind in Kind])
        self.memory = memory
        self._cached = memory.heads.open_share()
        self._write_lock = threading.Lock()
        self._scrubber = Scrubber(self._families, path, partition, self._wait_for_views)
        self._commits = (
            GroupCommit(self._sync, settings.sync_every_ms / 1_000, f"sync-{partition}")
            if settings.durability == "power"
            else None
        )
        self._durable_offset = self._state.applied_offset
        # More than the bound allows is opened as well: it is there to be read.
        memory.items.add(len(self._items))
        self.written_bytes = 0
        """Bytes of all batches written since the store was opened."""
        self.totals = ApplyResult()
        """What all batches together did since the store was opened."""
        self.erased_events = 0
        """Events that erasures removed since the store was opened."""

    @classmethod
    def open(cls, path: Path, *, partition: int, settings: StoreSettings, memory: SharedMemory) -> Self:
        """Open or create the store in `path`.

        Raises StoreLockedError when another process has it, ContractError when it was built with other caps or
        ages, FormatVersionError, CorruptRecordError, StoreError.
        """
        return cls(open_to_write(path, memory), path, partition, settings, memory)

    @property
    def durable_offset(self) -> int:
        """The last offset that survives what the durability setting promises."""
        return self.applied_offset if self._commits is None else self._durable_offset

    # Writing

    def apply(self, batch: ActionBatch, *, offset: int) -> ApplyResult:
        """Apply a micro-batch in one atomic write; `offset` is the last offset of the log that it covers.

        Raises ValueError when `offset` is not above the applied offset, ItemLimitError, having done nothing, when
        the process has no room for the batch's new items, and StoreFailedError after a write that failed.
        """
        with self._writing(offset, batch.item_id) as write:
            result, state = self._edit(batch, write, offset)
            self._commit(write, state)
            self.totals = self.totals.plus(result)
        return result

    def erase(self, user_id: bytes, *, offset: int) -> int:
        """Remove every event of a user; returns how many there were. Raises as `apply` does.

        A thread then removes the bytes from the files, after a crash too; `wait_scrubbed` waits for it.
        """
        with self._writing(offset) as write:
            removed, events, edits = 0, 0, _Edits()
            self._take_heads([keys.sequence_prefix(user_id, kind) for kind in Kind], edits)
            with self._naming() as at:
                for at.prefix in edits.records:
                    editor = self._editor(at.prefix, edits)
                    everything = editor.all_events()
                    events += everything.n
                    removed += self._sum_hashes([(at.prefix, everything)])
                    if editor.head.expiry_hour is not None:
                        write.delete(keys.expiry_key(at.prefix, editor.head.expiry_hour), self._handles["meta"])
            user = keys.user_prefix(user_id)
            for name in ("rows", "chunks"):
                write.delete_range(user, keys.after(user), self._handles[name])
            write.put(keys.erasure_key(user_id, offset), b"", self._handles["meta"])
            state = self._state
            self._commit(
                write,
                State(offset, state.watermark_ms, state.events - events, fp.add(state.fingerprint, -removed)),
            )
            self.erased_events += events
        self._scrubber.request()
        return events

    @property
    def scrubbing(self) -> bool:
        """Whether bytes of erased users may still be in the files."""
        return self._scrubber.busy

    def wait_scrubbed(self, timeout_s: float) -> bool:
        """Return whether no byte of the users erased so far is left in the files, within `timeout_s` seconds."""
        return self._scrubber.wait(timeout_s)

    @contextmanager
    def _writing(self, offset: int, item_id: NDArray[np.uint64] | None = None) -> Iterator[WriteBatch]:
        with self._write_lock:
            self._check_usable()
            if offset <= self.applied_offset:
                raise ValueError(
                    f"partition {self.partition} has applied offset {self.applied_offset}: a batch up to {offset} "
                    "is a repeat and must be skipped"
                )
            if item_id is not None:
                self.memory.items.check(self.partition, self._items, item_id)
            try:
                yield WriteBatch(raw_mode=True)
            except BaseException as error:
                # Heads in memory may be ahead of the disk now: only a restart is safe.
                with self._changed:
                    self._failed = error
                    self._changed.notify_all()
                if isinstance(error, StoreError) or not isinstance(error, Exception):
                    raise
                self._check_usable()

    def _commit(self, write: WriteBatch, state: State) -> None:
        write.put(keys.STATE_KEY, state.pack(), self._handles["meta"])
        self.written_bytes += write.size_in_bytes()
        with self._changed:
            self._db.write(write)
            self._state = state
            self._changed.notify_all()
        if self._commits is not None:
            self._commits.request()

    def _edit(self, batch: ActionBatch, write: WriteBatch, offset: int) -> tuple[ApplyResult, State]:
        state = self._state
        if not len(batch):
            return ApplyResult(), state._replace(applied_offset=offset)
        watermark = max(state.watermark_ms, batch.watermark_ms)
        horizons = self._horizons(watermark)
        arrived = len(batch)
        if horizons:
            batch = _not_before(batch, horizons)
        edits = _Edits()
        expired = self._expire(edits, state.watermark_ms, horizons)
        known = len(self._items)
        added = self._insert(batch, edits) if len(batch) else _Added()
        self.memory.items.add(len(self._items) - known)
        self._put_new_items(write, known)
        trimmed: list[tuple[bytes, EventColumns]] = []
        sealed = late = 0
        with self._naming() as at:
            for at.prefix, editor in edits.editors.items():
                prefix = at.prefix
                if self._ages:
                    self._follow_expiry(editor, edits)
                record = editor.finish()
                edits.rows.update(editor.rows)
                edits.chunks.update(editor.chunks)
                trimmed += [(prefix, part) for part in editor.trimmed]
                sealed += editor.sealed_chunks
                late += editor.late_rewrites
                if record is None:
                    edits.records.pop(prefix, None)
                    continue
                edits.records[prefix] = record
                if editor.remembered:
                    edits.remembered[prefix] = editor.remembered
        for name, records in (("rows", edits.rows), ("chunks", edits.chunks), ("meta", edits.meta)):
            self._put(write, name, records)
        self._cached.put_many(edits.records, edits.remembered)
        gone = sum(part.n for _, part in trimmed)
        total = fp.add(state.fingerprint, added.hashes - self._sum_hashes(trimmed))
        return (
            ApplyResult(added.events, arrived - added.events, gone - expired, expired, sealed, late),
            State(offset, watermark, state.events + added.events - gone, total),
        )

    def _insert(self, batch: ActionBatch, edits: "_Edits") -> "_Added":
        """Insert a batch that is not empty into its sequences."""
        columns = GroupedBatch.of(batch)
        events = EventColumns(columns.timestamp_ms, self._items.add(columns.item_id).astype(np.uint32), columns.code)
        self._take_heads([prefix for prefix in columns.prefixes if prefix not in edits.editors], edits)
        inserted = np.ones(events.n, np.bool_)
        packed = pack_events(events)
        with self._naming() as at:
            for number in self._append(columns, packed, edits):
                at.prefix, start, end = columns.prefixes[number], columns.starts[number], columns.ends[number]
                editor = self._editor(at.prefix, edits)
                if columns.first_ms[number] > editor.head.newest_ms:
                    editor.append(packed[start * EVENT_BYTES : end * EVENT_BYTES], columns.last_ms[number])
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
        return _Added(int(inserted.sum()), fp.total(*hashes))

    def _append(self, columns: GroupedBatch, packed: bytes, edits: "_Edits") -> list[int]:
        """Append to every sequence in which nothing but the head changes; returns the numbers of the others.

        `packed` is 14 bytes for each row.
        """
        prefixes, starts, ends = columns.prefixes, columns.starts, columns.ends
        records = [edits.records.get(prefix, _NO_HEAD) for prefix in prefixes]
        heads = PackedHeads.read(records, len(self._items))
        counts = np.array(ends) - np.array(starts)
        kinds = columns.kind[starts]
        shape = self._shapes[Kind.EXPLICIT]
        fits = (
            heads.sound
            & (np.array(columns.first_ms) > heads.newest_ms)
            & (heads.inline + counts <= shape.inline_events)
            & (heads.unsealed + counts < shape.chunk_events + shape.keep_unsealed)
            & (heads.events + counts <= self._caps[kinds])
            & (heads.has_hour | ~self._aged[kinds])
        )
        if edits.editors:
            fits &= [prefix not in edits.editors for prefix in prefixes]
        first_bytes = heads.starts(counts)
        appended = {}
        for number, (prefix, record, tail, start, end, fit) in enumerate(
            zip(prefixes, records, heads.tails(), starts, ends, fits.tolist(), strict=True)
        ):
            if fit:
                appended[prefix] = (
                    first_bytes[number * 4 : number * 4 + 4]
                    + record[tail:]
                    + packed[start * EVENT_BYTES : end * EVENT_BYTES]
                )
        edits.rows.update(appended)
        edits.records.update(appended)
        others: list[int] = np.flatnonzero(~fits).tolist()
        return others

    # Expiry

    def _horizons(self, watermark_ms: int) -> dict[int, int]:
        """Return the time before which events of a kind are gone, for the kinds that have an age.

        It moves in whole hours of the watermark, so that it is one function of the log and costs little.
        """
        hour = keys.hour_of(watermark_ms)
        return {kind: (hour - age) * keys.HOUR_MS for kind, age in self._ages.items() if hour > age}

    def _expire(self, edits: "_Edits", before_ms: int, horizons: dict[int, int]) -> int:
        """Remove what the horizons have passed since the watermark was `before_ms`; returns how many events."""
        passed = self._horizons(before_ms)
        expired = 0
        for kind, horizon in horizons.items():
            if passed.get(kind) == horizon:
                continue
            due = keys_between(self._meta, *keys.expiry_due(kind, keys.hour_of(horizon)))
            self._take_heads([keys.expiry_prefix(key) for key in due], edits)
            with self._naming() as at:
                for key in due:
                    at.prefix = keys.expiry_prefix(key)
                    if at.prefix not in edits.records:
                        raise CorruptRecordError("a sequence that is to expire has no head")
                    editor = self._editor(at.prefix, edits)
                    editor.expire(horizon)
                    expired += sum(part.n for part in editor.trimmed)
                    edits.meta[key] = None
                    editor.head.expiry_hour = None
        return expired

    def _follow_expiry(self, editor: SequenceEditor, edits: "_Edits") -> None:
        """Keep the sequence's expiry key at or below the hour of its oldest event."""
        head = editor.head
        if not head.events or keys.kind_of(editor.prefix) not in self._ages:
            return
        if head.expiry_hour is None:
            hour = keys.hour_of(editor.oldest_timestamp_ms())
        elif editor.earliest_ms is not None and keys.hour_of(editor.earliest_ms) < head.expiry_hour:
            hour = keys.hour_of(editor.earliest_ms)
            edits.meta[keys.expiry_key(editor.prefix, head.expiry_hour)] = None
        else:
            return
        head.expiry_hour = hour
        edits.meta[keys.expiry_key(editor.prefix, hour)] = b""

    # Records

    def _put(self, write: WriteBatch, family: str, records: dict[bytes, bytes | None]) -> None:
        handle = self._handles[family]
        # Sorted keys meet the memtable's skip list in order, which is a fifth faster.
        for key in sorted(records):
            data = records[key]
            if data is None:
                write.delete(key, handle)
            else:
                write.put(key, data, handle)

    def _put_new_items(self, write: WriteBatch, known: int) -> None:
        ids, handle = self._items.ids, self._handles["meta"]
        if len(ids) == known:
            return
        write.put(keys.items_key(known), ids[known:].tobytes(), handle)
        while len(ids) - self._items_folded >= ITEMS_BLOCK:
            start, end = self._items_folded, self._items_folded + ITEMS_BLOCK
            # One block instead of many small records: opening reads one record for 4,096 items.
            write.delete_range(keys.items_key(start), keys.items_key(end), handle)
            write.put(keys.items_key(start), ids[start:end].tobytes(), handle)
            if len(ids) > end:
                write.put(keys.items_key(end), ids[end:].tobytes(), handle)
            self._items_folded = end

    def _take_heads(self, prefixes: list[bytes], edits: "_Edits") -> None:
        """Bring the head records that exist into `edits`, out of memory or from disk."""
        taken = self._cached.take_many(prefixes)
        edits.records.update(taken.records)
        edits.remembered.update(taken.remembered)
        if len(taken.records) < len(prefixes):
            missing = [prefix for prefix in prefixes if prefix not in taken.records]
            stored = zip(missing, get_many(self._rows, missing), strict=True)
            edits.records.update((prefix, data) for prefix, data in stored if data is not None)

    @contextmanager
    def _naming(self) -> Iterator["_Place"]:
        """Say in a CorruptRecordError whose record it is: the sequence that the block is at."""
        at = _Place()
        try:
            yield at
        except CorruptRecordError as error:
            raise CorruptRecordError(
                error.what, partition=self.partition, user=_name(at.prefix), record=error.record
            ) from error

    def _editor(self, prefix: bytes, edits: "_Edits") -> SequenceEditor:
        """Return the editor of a sequence whose head has been taken; raises CorruptRecordError."""
        editor = edits.editors.get(prefix)
        if editor is None:
            record = edits.records.get(prefix)
            try:
                head = Head() if record is None else Head.unpack(record, len(self._items))
            except CorruptRecordError as error:
                raise CorruptRecordError(error.what, record="head") from error
            editor = edits.editors[prefix] = SequenceEditor(
                prefix,
                head,
                edits.remembered.pop(prefix, None) if edits.remembered else None,
                self._shapes[keys.kind_of(prefix)],
                self._rows,
                self._chunks,
                self._item_ids,
            )
        return editor

    def _item_ids(self) -> NDArray[np.uint64]:
        return self._items.ids

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
            self._items.ids[events.ordinal],
            kinds.repeat(counts),
            events.code,
        )
        return fp.total(*hashes)

    # Life

    def compact(self) -> None:
        """Flush and compact everything: what is left on disk is what the state needs."""
        for family in self._families.values():
            family.flush()
            compact_range(family)

    def checkpoint(self, into: Path) -> State:
        """Make a copy of the store in the new directory `into`, by hard links; returns the state that it has."""
        for family in self._families.values():
            family.flush()
        with self._write_lock:
            self._check_usable()
            Checkpoint(self._db).create_checkpoint(str(into))
            return self._state

    def close(self) -> None:
        """Close; waits for a write and for views under way. Nothing applied needs a flush to survive."""
        with self._write_lock:
            if self._closed:
                return
            self._scrubber.close()
            if self._commits is not None:
                self._commits.close()
            super().close()
            self._cached.close()
            self.memory.items.add(-len(self._items))

    def _release(self) -> None:
        self._handles.clear()

    def _sync(self) -> None:
        """Bring the write-ahead log to the disk; other threads run meanwhile."""
        if self._failed is not None:
            # After an fsync that failed, one that succeeds says nothing of what came before it.
            return
        offset = self.applied_offset
        try:
            self._db.flush_wal(True)
        except Exception as error:  # noqa: BLE001 - rocksdict raises bare Exception
            with self._changed:
                self._failed = error
                self._changed.notify_all()
        else:
            self._durable_offset = offset


@dataclass(slots=True)
class _Place:
    """Where the writer is."""

    prefix: bytes = b""


class _Added(NamedTuple):
    """What an insert came to."""

    events: int = 0
    hashes: int = 0
    """Sum of the inserted events' hashes."""


@dataclass(slots=True)
class _Edits:
    """What a batch changes, until it is written."""

    records: dict[bytes, bytes] = field(default_factory=dict)
    """Head records, by prefix."""
    remembered: dict[bytes, Remembered] = field(default_factory=dict)
    editors: dict[bytes, SequenceEditor] = field(default_factory=dict)
    rows: dict[bytes, bytes | None] = field(default_factory=dict)
    chunks: dict[bytes, bytes | None] = field(default_factory=dict)
    meta: dict[bytes, bytes | None] = field(default_factory=dict)


def _not_before(batch: ActionBatch, horizons: dict[int, int]) -> ActionBatch:
    """Return the actions that are not too old to be kept."""
    old = np.zeros(len(batch), np.bool_)
    for kind, horizon in horizons.items():
        old |= (batch.kind == kind) & (batch.timestamp_ms < horizon)
    if not old.any():
        return batch
    keep = np.flatnonzero(~old)
    return ActionBatch(
        [batch.user_ids[row] for row in keep.tolist()],
        batch.timestamp_ms[keep],
        batch.item_id[keep],
        batch.code[keep],
        batch.kind[keep],
        batch.logged_ms[keep],
    )


def _name(prefix: bytes) -> str:
    return keys.user_of(prefix).decode(errors="replace")
