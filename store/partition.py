"""The partition store: one RocksDB for one partition of the actions topic.

Column families: `rows` (heads and segments), `chunks` (sealed chunks) and `meta` (state and item ids); keys.py
has the keys, head.py, chunk.py and state.py the records.

`apply` writes events, new items, heads, applied offset and fingerprint in one WriteBatch, so a crash leaves
either all of a micro-batch or nothing of it. Durability is that of the process: the write-ahead log is not
synced, a killed process loses nothing, and after a power loss the applied offset makes Kafka give the missing
suffix again.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from rocksdict import (
    AccessType,
    BottommostLevelCompaction,
    CompactOptions,
    Rdict,
    RdictIter,
    WriteBatch,
)
from tenacity import Retrying, retry_if_exception_message, stop_after_attempt, wait_random_exponential

from store import fingerprint as fp
from store import keys
from store.actions import ActionBatch, Kind
from store.chunk import EventColumns
from store.errors import (
    CorruptRecordError,
    NotOwnerError,
    NotYetAppliedError,
    StoreError,
    StoreFailedError,
    StoreLockedError,
)
from store.grouping import GroupedBatch
from store.head import Head
from store.id_index import IdIndex
from store.memory import SharedMemory, database_options, family_options, get_many
from store.sequence import AsOf
from store.sequence_editor import SequenceEditor, Shape
from store.settings import StoreSettings
from store.state import State

ITEMS_BLOCK = 4_096
_READ_ONLY_ATTEMPTS = 6


class ApplyResult(NamedTuple):
    """What one batch did."""

    inserted: int
    """Events that were new to their sequence."""
    repeated: int
    """Events that stood in it already, or are older than a full sequence's oldest."""
    trimmed: int
    """Events that the cap dropped."""
    sealed_chunks: int
    """Chunks sealed."""
    late_rewrites: int
    """Chunks rewritten for late events."""


class View(NamedTuple):
    """Iterators and numbers that belong to one moment of the partition."""

    as_of: AsOf
    """What the view stands on."""
    rows: RdictIter
    """Heads and segments."""
    chunks: RdictIter
    """Chunks."""
    item_ids: NDArray[np.uint64]
    """uint64[m]: the item id of each ordinal that the view may hold."""


class PartitionStore:
    """One writer (`apply`, `erase`), any number of readers; every method may be called from any thread."""

    def __init__(self, db: Rdict, path: Path, partition: int, settings: StoreSettings) -> None:
        """Use `PartitionStore.open`."""
        self.path, self.partition = path, partition
        self._db = db
        self._rows, self._chunks, self._meta = (db.get_column_family(name) for name in ("rows", "chunks", "meta"))
        self._handles = {name: db.get_column_family_handle(name) for name in ("rows", "chunks", "meta")}
        self._shapes = {
            kind: Shape(settings.cap(kind), settings.inline_events, settings.chunk_events, settings.seal_at)
            for kind in Kind
        }
        self._max_heads = settings.head_cache_entries
        self._heads: OrderedDict[bytes, Head] = OrderedDict()
        self._write_lock = threading.Lock()
        self._changed = threading.Condition()
        self._failed: BaseException | None = None
        self._closed = False
        self._views = 0
        state = self._meta.get(keys.STATE_KEY)
        self._state = State() if state is None else State.unpack(state)
        self._items, self._items_folded = self._load_items()

    @classmethod
    def open(
        cls, path: Path, *, partition: int, settings: StoreSettings, memory: SharedMemory, read_only: bool = False
    ) -> Self:
        """Open or create the store in `path`; `read_only` gives the state of now beside a node that writes.

        Raises StoreLockedError when another process has it, FormatVersionError, CorruptRecordError, StoreError.
        """
        if not read_only:
            path.mkdir(parents=True, exist_ok=True)
        elif not (path / "CURRENT").exists():
            # RocksDB would leave a directory behind, which then looks like a partition.
            raise StoreError(f"{path} holds no store: name the data directory of a node that has run")
        access = AccessType.read_only(error_if_log_file_exist=False) if read_only else AccessType.read_write()
        families = {name: family_options(name, memory) for name in ("rows", "chunks", "meta")}
        # Beside a node that compacts, a file may go between the manifest and its opening.
        attempts = Retrying(
            stop=stop_after_attempt(_READ_ONLY_ATTEMPTS if read_only else 1),
            wait=wait_random_exponential(multiplier=0.05, max=1),
            retry=retry_if_exception_message(match="(?s).*No such file"),
            reraise=True,
        )
        try:
            db = attempts(Rdict, str(path), database_options(memory), families, access)
        except Exception as error:  # rocksdict raises bare Exception
            text = str(error)
            if f"{path}/LOCK: " in text:
                raise StoreLockedError(
                    f"{path} is open in another process: stop that node, or give this one its own node.data_dir"
                ) from error
            advice = (
                "if a node is at work there, try again; else check the disk"
                if read_only
                else "check the disk, or set the directory aside to rebuild it from the topic"
            )
            raise StoreError(f"{path} does not open ({text}): {advice}") from error
        try:
            return cls(db, path, partition, settings)
        except BaseException:
            db.close()
            raise

    # What the partition is

    @property
    def applied_offset(self) -> int:
        """The last offset of the log that is part of the state; -1 before the first."""
        return self._state.applied_offset

    @property
    def watermark_ms(self) -> int:
        """The newest event time applied, milliseconds since 1970; 0 without events."""
        return self._state.watermark_ms

    @property
    def fingerprint(self) -> int:
        """The sum modulo 2^128 of the retained events' hashes."""
        return self._state.fingerprint

    @property
    def state(self) -> State:
        """Applied offset, watermark, events and fingerprint of one moment."""
        return self._state

    @property
    def items(self) -> int:
        """Items that the partition has numbered."""
        return len(self._items)

    # Writing

    def apply(self, batch: ActionBatch, *, offset: int) -> ApplyResult:
        """Apply a micro-batch in one atomic write; `offset` is the last offset of the log that it covers.

        Raises ValueError when `offset` is not above the applied offset, and StoreFailedError after a write
        that failed.
        """
        with self._writing(offset) as write:
            result, state = self._edit(batch, write, offset)
            self._commit(write, state)
        return result

    def erase(self, user_id: bytes, *, offset: int) -> int:
        """Remove every event of a user; returns how many there were. Raises as `apply` does."""
        user = fp.user_hash(user_id)
        with self._writing(offset) as write:
            removed, events = 0, 0
            for kind in Kind:
                prefix = keys.sequence_prefix(user, kind)
                head = self._load_heads([prefix]).get(prefix)
                if head is None:
                    continue
                with self._named(prefix):
                    everything = self._editor(prefix, kind, head).all_events()
                events += everything.n
                removed += self._sum_hashes([(user, kind, everything)])
                self._heads.pop(prefix, None)
            for name in ("rows", "chunks"):
                write.delete_range(user, keys.after(user), self._handles[name])
            state = self._state
            self._commit(
                write,
                State(offset, state.watermark_ms, state.events - events, fp.add(state.fingerprint, -removed)),
            )
        return events

    @contextmanager
    def _writing(self, offset: int) -> Iterator[WriteBatch]:
        with self._write_lock:
            self._check_usable()
            if offset <= self.applied_offset:
                raise ValueError(
                    f"partition {self.partition} has applied offset {self.applied_offset}: a batch up to {offset} "
                    "is a repeat and must be skipped"
                )
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
        with self._changed:
            self._db.write(write)
            self._state = state
            self._changed.notify_all()

    def _edit(self, batch: ActionBatch, write: WriteBatch, offset: int) -> tuple[ApplyResult, State]:
        state = self._state
        if not len(batch):
            return ApplyResult(0, 0, 0, 0, 0), state._replace(applied_offset=offset)
        columns = GroupedBatch.of(batch)
        known = len(self._items)
        ordinals = self._items.add(columns.item_id).astype(np.uint32)
        self._put_new_items(write, known)
        events = EventColumns(columns.timestamp_ms, ordinals, columns.code)

        prefixes = columns.prefixes
        heads = self._load_heads(prefixes)
        inserted = np.ones(len(columns.timestamp_ms), np.bool_)
        trimmed: list[tuple[bytes, Kind, EventColumns]] = []
        rows: dict[bytes, bytes | None] = {}
        chunks: dict[bytes, bytes | None] = {}
        sealed = late = 0
        for prefix, start, end in zip(prefixes, columns.starts, columns.ends, strict=True):
            kind = Kind(prefix[-1])
            head = heads.get(prefix)
            if head is None:
                head = Head(columns.user_ids[prefix[:-1]])
                self._heads[prefix] = head
            editor = self._editor(prefix, kind, head)
            with self._named(prefix):
                was_new = editor.insert(events.take(slice(start, end)))
            if was_new is not None:
                inserted[start:end] = was_new
                if not was_new.any():
                    continue
            rows.update(editor.edits.rows)
            rows[keys.head_key(prefix)] = head.pack()
            chunks.update(editor.edits.chunks)
            trimmed += [(prefix[:-1], kind, part) for part in editor.trimmed]
            sealed += editor.sealed_chunks
            late += editor.late_rewrites
        self._put(write, "rows", rows)
        self._put(write, "chunks", chunks)

        h1, h2 = fp.event_hashes(
            columns.users[inserted],
            columns.timestamp_ms[inserted],
            columns.item_id[inserted],
            columns.kind[inserted],
            columns.code[inserted],
        )
        new, gone = int(inserted.sum()), sum(part.n for _, _, part in trimmed)
        total = fp.add(state.fingerprint, fp.total(h1, h2) - self._sum_hashes(trimmed))
        watermark = max(state.watermark_ms, int(batch.timestamp_ms.max()))
        self._trim_head_cache(keep=len(prefixes))
        return (
            ApplyResult(new, len(batch) - new, gone, sealed, late),
            State(offset, watermark, state.events + new - gone, total),
        )

    def _put(self, write: WriteBatch, family: str, edits: dict[bytes, bytes | None]) -> None:
        handle = self._handles[family]
        # Sorted keys meet the memtable's skip list in order, which is a fifth faster.
        for key in sorted(edits):
            data = edits[key]
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

    def _load_items(self) -> tuple[IdIndex, int]:
        parts: list[NDArray[np.uint64]] = []
        count = folded = 0
        iterator = self._meta.iter()
        iterator.seek(keys.ITEMS_PREFIX)
        while iterator.valid() and iterator.key().startswith(keys.ITEMS_PREFIX):
            data = iterator.value()
            ids = np.frombuffer(data[: len(data) // 8 * 8], np.uint64)
            if keys.items_first(iterator.key()) != count or len(data) % 8:
                raise CorruptRecordError(f"item ids from ordinal {count} on are missing", partition=self.partition)
            parts.append(ids)
            if count == folded and len(ids) == ITEMS_BLOCK:
                folded += ITEMS_BLOCK
            count += len(ids)
            iterator.next()
        return IdIndex(np.concatenate(parts) if parts else None), folded

    def _load_heads(self, prefixes: list[bytes]) -> dict[bytes, Head]:
        """Return the heads that exist, from memory or from disk, and mark them as just used."""
        found: dict[bytes, Head] = {}
        missing = []
        for prefix in prefixes:
            head = self._heads.get(prefix)
            if head is None:
                missing.append(prefix)
            else:
                self._heads.move_to_end(prefix)
                found[prefix] = head
        if missing:
            stored = get_many(self._rows, [keys.head_key(prefix) for prefix in missing])
            for prefix, data in zip(missing, stored, strict=True):
                if data is not None:
                    found[prefix] = self._heads[prefix] = self._unpack_head(prefix, data)
        return found

    def _unpack_head(self, prefix: bytes, data: bytes) -> Head:
        with self._named(prefix):
            return Head.unpack(data)

    @contextmanager
    def _named(self, prefix: bytes) -> Iterator[None]:
        """Say in a CorruptRecordError whose record it is: the user's hash, for the id may be what is corrupt."""
        try:
            yield
        except CorruptRecordError as error:
            raise CorruptRecordError(error.what, partition=self.partition, user=prefix[:-1].hex()) from error

    def _trim_head_cache(self, keep: int) -> None:
        while len(self._heads) > max(self._max_heads, keep):
            self._heads.popitem(last=False)

    def _editor(self, prefix: bytes, kind: Kind, head: Head) -> SequenceEditor:
        return SequenceEditor(prefix, head, self._shapes[kind], self._rows, self._chunks, lambda: self._items.ids)

    def _sum_hashes(self, parts: list[tuple[bytes, Kind, EventColumns]]) -> int:
        if not parts:
            return 0
        events = EventColumns.concatenate([part for _, _, part in parts])
        counts = [part.n for _, _, part in parts]
        users = np.array([np.frombuffer(user, np.uint64) for user, _, _ in parts]).repeat(counts, axis=0)
        kinds = np.array([kind for _, kind, _ in parts], np.uint8).repeat(counts)
        return fp.total(
            *fp.event_hashes(users, events.timestamp_ms, self._items.ids[events.ordinal], kinds, events.code)
        )

    # Reading

    def wait_for(self, offset: int, timeout_s: float) -> None:
        """Return once `offset` is applied; raises NotYetAppliedError after `timeout_s` seconds."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while self.applied_offset < offset:
                self._check_usable()
                left = deadline - time.monotonic()
                if left <= 0 or not self._changed.wait(left):
                    break
            self._check_usable()
            if self.applied_offset < offset:
                raise NotYetAppliedError(self.partition, offset, self.applied_offset)

    @contextmanager
    def view(self) -> Iterator[View]:
        """Give one consistent view: rows, chunks and applied offset of the same moment.

        `close` waits for the views that are still in use.
        """
        # A RocksDB snapshot sees one column family: the lock keeps writes out while both iterators are made.
        with self._changed:
            self._check_usable()
            state = self._state
            as_of = AsOf(self.partition, state.applied_offset, state.watermark_ms)
            view = View(as_of, self._rows.iter(), self._chunks.iter(), self._items.ids)
            self._views += 1
        try:
            yield view
        finally:
            del view
            with self._changed:
                self._views -= 1
                self._changed.notify_all()

    def users(self) -> Iterator[str]:
        """Yield the ids of the users that have events, in the order of their hashes, from one snapshot."""
        last = b""
        with self.view() as view:
            view.rows.seek_to_first()
            while view.rows.valid():
                key: bytes = view.rows.key()
                user = key[: keys.USER_HASH_BYTES]
                if user != last and key.endswith(keys.HEAD_SUFFIX) and len(key) == keys.USER_HASH_BYTES + 2:
                    last = user
                    yield self._unpack_head(key[:-1], view.rows.value()).user_id.decode()
                view.rows.next()

    # Life

    def compact(self) -> None:
        """Flush and compact everything: what is left on disk is what the state needs."""
        options = CompactOptions()
        # Without force a file that only moves down is not rewritten, and stays uncompressed.
        options.set_bottommost_level_compaction(BottommostLevelCompaction.force())
        for family in (self._rows, self._chunks, self._meta):
            family.flush()
            family.compact_range(None, None, options)

    def close(self) -> None:
        """Close; waits for a write and for views under way. Nothing applied needs a flush to survive."""
        with self._write_lock, self._changed:
            if self._closed:
                return
            self._closed = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._views)
            self._handles.clear()
            # The files are unlocked once the last of these is gone.
            for handle in (self._rows, self._chunks, self._meta, self._db):
                handle.close()

    def _check_usable(self) -> None:
        if self._closed:
            raise NotOwnerError(self.partition)
        if self._failed is not None:
            raise StoreFailedError(
                f"an earlier write of partition {self.partition} failed ({self._failed}): restart the node"
            ) from self._failed
