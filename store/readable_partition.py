"""An open partition, for those who read it: its families, its state, and consistent views.

Column families: `rows` (heads and segments), `chunks` (sealed chunks) and `meta` (contract, state, item ids,
expiry and erasure keys); keys.py has the keys, and head.py, segment.py, chunk.py, contract.py and state.py the
records.
"""

import itertools
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rocksdict import Rdict, RdictIter

from lifeline.core.sequence import AsOf
from lifeline.store import keys
from lifeline.store.errors import (
    CorruptRecordError,
    FormatVersionError,
    NotOwnerError,
    NotYetAppliedError,
    StoreError,
    StoreFailedError,
)
from lifeline.store.id_index import IdIndex
from lifeline.store.read_counts import ReadCounts
from lifeline.store.retention import RetentionPolicy
from lifeline.store.state import State
from lifeline.store.statistics import PartitionStatistics, family_statistics, files_in, number

FAMILIES = ("rows", "chunks", "meta")
_NUMBERS = itertools.count()
ITEMS_BLOCK = 4_096


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


class ReadablePartition:
    """Any number of readers; every method may be called from any thread."""

    def __init__(self, db: Rdict, path: Path, partition: int) -> None:
        """Take over an open database; raises CorruptRecordError, FormatVersionError."""
        self.path, self.partition = path, partition
        self.number = next(_NUMBERS)
        """No other partition that this process opens has it, before or after."""
        self._use(db)
        lock = threading.RLock()
        self._changed = threading.Condition(lock)
        # Apart from the other one: a read that ends wakes nobody who waits for an offset.
        self._view_closed = threading.Condition(lock)
        self._failed: BaseException | None = None
        self._closed = False
        self._views: set[int] = set()
        self._view_number = 0
        self._state = State()
        self._items = IdIndex()
        self._items_folded = 0
        self.contract: RetentionPolicy | None = None
        self.reads = ReadCounts()
        with self._letting_go():
            self._load()

    def _use(self, db: Rdict) -> None:
        self._db = db
        self._families: Mapping[str, Rdict] = {name: db.get_column_family(name) for name in FAMILIES}
        self._rows, self._chunks, self._meta = self._families.values()

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
            self._view_number += 1
            number = self._view_number
            self._views.add(number)
        try:
            yield view
        finally:
            del view
            with self._changed:
                self._views.discard(number)
                self._view_closed.notify_all()

    def users(self) -> Iterator[str]:
        """Yield the ids of the users that have events, in the order of their keys, from one snapshot."""
        last = b""
        with self.view() as view:
            rows = view.rows
            rows.seek_to_first()
            while rows.valid():
                key = rows.key()
                if keys.is_head(key) and (user := keys.user_of(key)) != last:
                    last = user
                    yield user.decode()
                rows.next()

    def statistics(self) -> PartitionStatistics:
        """Return RocksDB's numbers of this moment."""
        with self._changed:
            self._check_usable()
            files = list(files_in(self.path))
            return PartitionStatistics(
                families={name: family_statistics(family) for name, family in self._families.items()},
                block_cache_bytes=number(self._rows, "block-cache-usage"),
                block_cache_pinned_bytes=number(self._rows, "block-cache-pinned-usage"),
                wal_bytes=sum(size for path, size in files if path.suffix == ".log"),
                directory_bytes=sum(size for _, size in files),
                open_views=len(self._views),
                background_errors=number(self._rows, "background-errors"),
                writes_stopped=bool(number(self._rows, "is-write-stopped")),
            )

    def close(self) -> None:
        """Close; waits for views under way."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._changed.notify_all()
            self._view_closed.wait_for(lambda: not self._views)
            self._release()
            self._let_go()

    @contextmanager
    def _letting_go(self) -> Iterator[None]:
        """Unlock the files of a partition that is not one to open, however long the error is kept."""
        try:
            yield
        except BaseException:
            self._let_go()
            raise

    def _let_go(self) -> None:
        # The files are unlocked once the last of these is gone.
        errors: list[Exception] = []
        for handle in (self._rows, self._chunks, self._meta, self._db):
            try:
                handle.close()
            except Exception as error:  # noqa: BLE001 - rocksdict raises bare Exception
                errors.append(error)
        # After a write that failed a close fails too, and says less than the write did.
        if errors and self._failed is None:
            raise StoreError(
                f"{self.path} did not close well ({errors[0]}): see to the disk; what is applied is not lost by it"
            ) from errors[0]

    def _release(self) -> None:
        """Let go of what holds the database open, under the lock."""

    def _wait_for_views(self) -> None:
        """Return once every view that is open now is closed."""
        with self._changed:
            open_now = set(self._views)
            self._view_closed.wait_for(lambda: not open_now & self._views)

    def _load(self) -> None:
        """Read the contract, the state, and the item ids that are not known yet."""
        contract: bytes | None = self._meta.get(keys.CONTRACT_KEY)
        self.contract = None if contract is None else RetentionPolicy.unpack(contract)
        state = self._meta.get(keys.STATE_KEY)
        if state is not None:
            if self.contract is None:
                raise FormatVersionError("the partition", "without a contract", 2)
            self._state = State.unpack(state)
        parts: list[NDArray[np.uint64]] = []
        count = folded = self._items_folded
        known = len(self._items)
        iterator = self._meta.iter()
        iterator.seek(keys.items_key(folded))
        while iterator.valid() and iterator.key().startswith(keys.ITEMS_PREFIX):
            data = iterator.value()
            ids = np.frombuffer(data[: len(data) // 8 * 8], np.uint64)
            if keys.items_first(iterator.key()) != count or len(data) % 8:
                raise CorruptRecordError(f"item ids from ordinal {count} on are missing", partition=self.partition)
            parts.append(ids[max(0, known - count) :])
            if count == folded and len(ids) == ITEMS_BLOCK:
                folded += ITEMS_BLOCK
            count += len(ids)
            iterator.next()
        if parts:
            new = np.concatenate(parts)
            if known:
                self._items.add(new)
            else:
                self._items = IdIndex(new)
        if len(self._items) != count:
            raise CorruptRecordError("an item has two ordinals", partition=self.partition)
        self._items_folded = folded

    def _check_usable(self) -> None:
        if self._closed:
            raise NotOwnerError(self.partition)
        if self._failed is not None:
            raise StoreFailedError(
                f"an earlier write of partition {self.partition} failed ({self._failed}): put that right, then restart "
                "the node"
            ) from self._failed
