"""Inspection of a partition: bytes by kind of record, distributions of sizes, and broken records.

It takes one pass over heads, segments, chunks and meta, with one sequence and the largest users in memory.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from heapq import heappush, heappushpop
from pathlib import Path
from typing import NamedTuple

from lifeline.core.actions import Kind
from lifeline.store import keys
from lifeline.store.errors import StoreError
from lifeline.store.inspection.histogram import Histogram
from lifeline.store.inspection.inspectable_partition import InspectablePartition, TableGroup
from lifeline.store.inspection.records import Damage, records_in
from lifeline.store.inspection.sequences import SequenceInspection, inspect_sequence
from lifeline.store.retention import RetentionPolicy
from lifeline.store.segment import EVENT_BYTES
from lifeline.store.state import State
from lifeline.store.statistics import PartitionStatistics, files_in

RAW_EVENT_BYTES = 18
"""timestamp 8, item 8, code 2."""
RAW_EMBEDDED_BYTES = 50
"""The same with an embedding of 32 bytes."""
MAX_LISTED_DAMAGES = 100

_FILE_NAMES = {"MANIFEST": "manifest", "OPTIONS": "options", "LOG": "RocksDB's own log"}
_META_RECORDS = {
    keys.POLICY_KEY: "contract",
    keys.STATE_KEY: "state",
    keys.ITEMS_PREFIX: "item ids",
    keys.EXPIRY_PREFIX: "expiry keys",
    keys.ERASURE_PREFIX: "erasure keys",
    keys.ERASURE_PREFIX.lower(): "erasure keys",
}


class RecordGroup(NamedTuple):
    """Records of one kind; their bytes are counted before RocksDB packs them into tables."""

    family: str
    name: str
    records: int
    bytes: int


class Size(NamedTuple):
    """A total size, and its size for each event."""

    name: str
    bytes: int
    per_event: float
    ratio_18: float
    """How many times smaller it is than events of 18 bytes."""
    ratio_50: float
    """The same for events of 50 bytes."""


class FileGroup(NamedTuple):
    """Files of one kind in the partition's directory."""

    name: str
    files: int
    bytes: int


class EncodingTotals(NamedTuple):
    """Chunks with the same encoding of timestamps."""

    encoding: str
    chunks: int
    events: int
    timestamp_bytes: int


class LargeUser(NamedTuple):
    """One of the largest users; `bytes` counts the user's records and keys."""

    user: str
    events: int
    bytes: int


@dataclass(slots=True)
class KindTotals:
    """All sequences of one kind."""

    sequences: int = 0
    events: int = 0
    inline: int = 0
    """Events in heads."""
    in_segments: int = 0
    sealed: int = 0
    """Retained events in chunks."""
    skipped: int = 0
    """Trimmed events that are still in chunks."""
    chunks: int = 0
    oldest_timestamp_ms: int | None = None
    newest_timestamp_ms: int | None = None
    events_per_sequence: Histogram = field(default_factory=Histogram.doublings)


@dataclass(frozen=True, slots=True)
class PartitionInspection:
    """The inspection of a partition at one moment."""

    partition: int
    path: Path
    state: State
    contract: RetentionPolicy | None
    """The retention policy."""
    items: int
    users: int
    kinds: dict[Kind, KindTotals]
    parts: tuple[RecordGroup, ...]
    encodings: tuple[EncodingTotals, ...]
    events_per_chunk: Histogram
    largest: tuple[LargeUser, ...]
    """By number of events, the largest first."""
    tables: tuple[TableGroup, ...]
    files: tuple[FileGroup, ...]
    statistics: PartitionStatistics
    damaged: int
    """Number of all damages."""
    damages: tuple[Damage, ...]
    """The first MAX_LISTED_DAMAGES of them."""

    @property
    def sizes(self) -> tuple[Size, ...]:
        """Sizes for each retained event; empty without events."""
        if not self.state.events:
            return ()
        sequences = sum(part.bytes for part in self.parts if part.family != "meta")
        tables = sum(group.bytes for group in self.tables if group.family != "meta")
        directory = sum(group.bytes for group in self.files)
        return tuple(
            Size(
                name,
                size,
                size / self.state.events,
                RAW_EVENT_BYTES * self.state.events / size,
                RAW_EMBEDDED_BYTES * self.state.events / size,
            )
            for name, size in (
                ("sequences: keys and values", sequences),
                ("sequences: tables on disk", tables),
                ("the whole directory", directory),
            )
            if size
        )


def inspect_partition(
    store: InspectablePartition, *, top: int = 10, progress: Callable[[int], None] | None = None
) -> PartitionInspection:
    """Inspect every record of a partition.

    `top` is the number of largest users to list; `progress` is called with the number of events inspected so far.
    Raises StoreError only if the partition as a whole cannot be read; broken records are listed as damages.
    """
    tally = _Tally(top)
    with store.view() as view:
        for records in records_in(view, tally.damages):
            tally.add(inspect_sequence(records, view.item_ids))
            if progress is not None:
                progress(tally.events)
        try:
            tally.add_meta(store.meta())
        except StoreError as error:
            tally.damages.append(Damage("", "meta", str(error)))
        tally.finish(store.state)
        tables = store.tables()
    return PartitionInspection(
        store.partition,
        store.path,
        store.state,
        store.policy,
        store.items,
        tally.users,
        tally.kinds,
        tally.parts(),
        tuple(EncodingTotals(name, *map(int, sums)) for name, sums in sorted(tally.encodings.items())),
        tally.events_per_chunk,
        tally.largest(),
        tables,
        _files(store.path),
        store.statistics(),
        len(tally.damages),
        tuple(tally.damages[:MAX_LISTED_DAMAGES]),
    )


class _Tally:
    """Sums over the inspected sequences."""

    def __init__(self, top: int) -> None:
        self.users = self.events = 0
        self.kinds = {kind: KindTotals() for kind in Kind}
        self.encodings: dict[str, list[int]] = {}
        self.events_per_chunk = Histogram.quarters()
        self.damages: list[Damage] = []
        self._top = top
        self._heap: list[tuple[int, int, str]] = []
        self._last = LargeUser("", 0, 0)
        self._bytes: Counter[tuple[str, str]] = Counter()
        self._records: Counter[tuple[str, str]] = Counter()
        self._with_hour = 0

    def add(self, sequence: SequenceInspection) -> None:
        """Add a sequence; the sequences of a user must follow each other."""
        self.damages += sequence.damages
        self._add_bytes(sequence)
        self._add_user(sequence)
        totals, events = self.kinds[sequence.kind], sequence.events
        self.events += events
        totals.sequences += 1
        totals.events += events
        totals.inline += sequence.inline_events
        totals.in_segments += sum(segment.events for segment in sequence.segments)
        totals.sealed += sequence.sealed_events
        totals.skipped += sum(chunk.skip for chunk in sequence.chunks)
        totals.chunks += len(sequence.chunks)
        oldest, newest = sequence.oldest_timestamp_ms, sequence.newest_timestamp_ms
        totals.oldest_timestamp_ms = min(
            (at for at in (totals.oldest_timestamp_ms, oldest) if at is not None), default=None
        )
        totals.newest_timestamp_ms = max(
            (at for at in (totals.newest_timestamp_ms, newest) if at is not None), default=None
        )
        if events:
            totals.events_per_sequence.add(events)
        if sequence.head is not None and sequence.head.expiry_hour is not None:
            self._with_hour += 1

    def add_meta(self, records: Iterable[tuple[bytes, bytes]]) -> None:
        """Add the records of the family `meta`."""
        for key, data in records:
            name = _META_RECORDS.get(key[:1])
            if name is None:
                self.damages.append(Damage("", f"meta {key.hex()}", "its key does not belong to this format"))
            self._count("meta", name or "unknown", 1, len(key) + len(data))

    def finish(self, state: State) -> None:
        """Compare the counts with the partition's state and expiry keys."""
        self._push_user()
        if self.damages:
            return
        if self.events != state.events:
            self._damage("state", f"it counts {state.events} events, but {self.events} are stored")
        expiring = self._records["meta", "expiry keys"]
        if expiring != self._with_hour:
            self._damage("expiry keys", f"{self._with_hour} heads refer to one, but {expiring} are stored")

    def parts(self) -> tuple[RecordGroup, ...]:
        """Return the records and bytes by kind of record."""
        return tuple(RecordGroup(*group, self._records[group], size) for group, size in self._bytes.items())

    def largest(self) -> tuple[LargeUser, ...]:
        """Return the largest users, the largest first."""
        return tuple(LargeUser(user, events, size) for events, size, user in sorted(self._heap, reverse=True))

    def _add_bytes(self, sequence: SequenceInspection) -> None:
        head, chunks = sequence.head, sequence.chunks
        inline = sequence.inline_events * EVENT_BYTES
        if sequence.head_bytes:
            self._count("rows", "heads" if head is not None else "broken", 1, sequence.head_bytes - inline)
        self._count("rows", "inline events", sequence.inline_events, inline)
        for segment in sequence.segments:
            form = {"raw": "raw segments", "run": "runs"}.get(segment.form, "broken")
            self._count("rows", form, 1, segment.bytes)
        self._count("rows", "keys", 1 + len(sequence.segments), sequence.row_key_bytes)
        self._count("chunks", "keys", len(chunks), sequence.chunk_key_bytes)
        for chunk in chunks:
            if not chunk.intact:
                self._count("chunks", "broken", 1, chunk.bytes)
                continue
            self._count("chunks", "headers", 1, chunk.header_bytes)
            self._count("chunks", "timestamps", 1, chunk.timestamp_bytes)
            self._count("chunks", "ordinals", 1, chunk.ordinal_bytes)
            self._count("chunks", "codes", 1, chunk.code_bytes)
            self.events_per_chunk.add(chunk.events)
            sums = self.encodings.setdefault(chunk.encoding, [0, 0, 0])
            for at, more in enumerate((1, chunk.events, chunk.timestamp_bytes)):
                sums[at] += more

    def _add_user(self, sequence: SequenceInspection) -> None:
        last = self._last
        if sequence.user != last.user:
            self._push_user()
            self.users += 1
            last = LargeUser(sequence.user, 0, 0)
        self._last = LargeUser(sequence.user, last.events + sequence.events, last.bytes + sequence.bytes)

    def _push_user(self) -> None:
        user = self._last.events, self._last.bytes, self._last.user
        if not user[-1]:
            return
        if len(self._heap) < self._top:
            heappush(self._heap, user)
        elif self._heap:
            heappushpop(self._heap, user)

    def _count(self, family: str, name: str, records: int, size: int) -> None:
        self._records[family, name] += records
        self._bytes[family, name] += size

    def _damage(self, record: str, why: str) -> None:
        self.damages.append(Damage("", record, why))


def _files(path: Path) -> tuple[FileGroup, ...]:
    """Return the files of a partition's directory by kind."""
    groups: dict[str, list[int]] = {}
    for file, size in files_in(path):
        name = "tables" if file.suffix == ".sst" else "write-ahead log" if file.suffix == ".log" else None
        name = name or _FILE_NAMES.get(file.name.split("-")[0].split(".")[0], "others")
        groups.setdefault(name, []).append(size)
    return tuple(FileGroup(name, len(sizes), sum(sizes)) for name, sizes in sorted(groups.items()))
