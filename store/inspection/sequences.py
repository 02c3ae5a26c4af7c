"""Inspection of sequences: the sizes of each record of a user, and broken records.

A broken record never ends an inspection. It is counted with its bytes and no events, and is listed in the damages with
the reason.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lifeline.core.actions import Identity, Kind
from lifeline.core.sequence import AsOf
from lifeline.store import keys
from lifeline.store.chunk import Chunk, EventColumns, decode
from lifeline.store.errors import CorruptRecordError, StoreError
from lifeline.store.head import Head
from lifeline.store.inspection.records import Damage, RawSequence, records_in
from lifeline.store.readable_partition import ReadablePartition
from lifeline.store.segment import EVENT_BYTES, RAW, unpack_events, unpack_segments


class UnknownRecordError(StoreError):
    """The requested user, sequence or chunk is not in the partition.

    Operators: name existing ones.
    """


class SegmentInspection(NamedTuple):
    """One segment."""

    number: int
    form: str
    """raw, run, or broken."""
    events: int
    bytes: int


class ChunkInspection(NamedTuple):
    """One chunk; sizes in bytes. A broken chunk has no events and no columns."""

    number: int
    """From 0, the oldest."""
    fence: Identity
    intact: bool
    """Whether it decodes."""
    events: int
    """All stored events, including skipped ones."""
    skip: int
    """Trimmed events at the start of the chunk."""
    first_timestamp_ms: int
    last_timestamp_ms: int
    encoding: str
    """The encoding of the timestamps."""
    header_bytes: int
    timestamp_bytes: int
    ordinal_bytes: int
    code_bytes: int
    bytes: int
    """Size of the record without its key."""


@dataclass(frozen=True, slots=True)
class SequenceInspection:
    """The records of one sequence."""

    user: str
    kind: Kind
    head: Head | None
    """None if it is missing or broken."""
    head_bytes: int
    segments: tuple[SegmentInspection, ...]
    chunks: tuple[ChunkInspection, ...]
    """Oldest first."""
    row_key_bytes: int
    chunk_key_bytes: int
    oldest_timestamp_ms: int | None
    """Among the retained events; None if none decodes."""
    newest_timestamp_ms: int | None
    damages: tuple[Damage, ...]

    @property
    def inline_events(self) -> int:
        """Events in the head."""
        return len(self.head.inline) // EVENT_BYTES if self.head else 0

    @property
    def sealed_events(self) -> int:
        """Retained events in chunks."""
        return sum(chunk.events - chunk.skip for chunk in self.chunks)

    @property
    def events(self) -> int:
        """Retained events in the records that decode."""
        return self.inline_events + sum(segment.events for segment in self.segments) + self.sealed_events

    @property
    def bytes(self) -> int:
        """Bytes of all records, keys included."""
        values = sum(segment.bytes for segment in self.segments) + sum(chunk.bytes for chunk in self.chunks)
        return self.row_key_bytes + self.chunk_key_bytes + self.head_bytes + values


@dataclass(frozen=True, slots=True)
class UserInspection:
    """The sequences of one user."""

    as_of: AsOf
    user: str
    sequences: tuple[SequenceInspection, ...]
    damages: tuple[Damage, ...]


@dataclass(frozen=True, slots=True)
class ChunkDetail:
    """One chunk with its events."""

    as_of: AsOf
    sequence: SequenceInspection
    """The sequence of the chunk."""
    chunk: ChunkInspection
    events: EventColumns | None
    """None if the chunk is broken."""
    item_id: "NDArray[np.uint64] | None"
    """uint64[n], the item of each event; None if the chunk is broken."""
    damages: tuple[Damage, ...]
    """The damages of the whole sequence."""


def has_user(store: ReadablePartition, user_id: str) -> bool:
    """Return whether the partition has records of a user, including broken ones."""
    damages: list[Damage] = []
    with store.view() as view:
        return any(True for _ in records_in(view, damages, keys.user_prefix(user_id.encode()))) or bool(damages)


def inspect_user(store: ReadablePartition, user_id: str, kinds: tuple[Kind, ...]) -> UserInspection:
    """Inspect a user's sequences of the given kinds.

    Raises UnknownRecordError if the partition has no record of them.
    """
    damages: list[Damage] = []
    with store.view() as view:
        sequences = [
            inspect_sequence(records, view.item_ids)
            for kind in kinds
            for records in records_in(view, damages, keys.sequence_prefix(user_id.encode(), kind))
        ]
        damages += [damage for sequence in sequences for damage in sequence.damages]
        if not sequences and not damages:
            names = " and ".join(kind.name.lower() for kind in kinds)
            raise UnknownRecordError(
                f"partition {store.partition} has no {names} events of user {user_id!r}: name another user or kind; "
                "user ids are case-sensitive"
            )
        return UserInspection(view.as_of, user_id, tuple(sequences), tuple(damages))


def inspect_chunk(store: ReadablePartition, user_id: str, kind: Kind, chunk_key: int | Identity) -> ChunkDetail:
    """Inspect a chunk, given by its number (from 0, the oldest) or fence; raises UnknownRecordError."""
    damages: list[Damage] = []
    with store.view() as view:
        for records in records_in(view, damages, keys.sequence_prefix(user_id.encode(), kind)):
            sequence = inspect_sequence(records, view.item_ids)
            for chunk, (_, data) in zip(sequence.chunks, records.chunks, strict=True):
                if chunk_key in {chunk.number, chunk.fence}:
                    events = decode(data) if chunk.intact else None
                    item_id = view.item_ids[events.ordinal] if events else None
                    return ChunkDetail(view.as_of, sequence, chunk, events, item_id, (*damages, *sequence.damages))
    name = f"chunk {chunk_key}" if isinstance(chunk_key, int) else keys.chunk_name(chunk_key)
    raise UnknownRecordError(
        f"partition {store.partition} has no {name} in the {kind.name.lower()} sequence of user {user_id!r}: "
        "inspect the user to list the chunks"
    )


def inspect_sequence(records: RawSequence, ids: NDArray[np.uint64]) -> SequenceInspection:
    """Inspect the records of one sequence; `ids` is uint64[m], the item id of each ordinal."""
    return _Inspector(records, ids).inspect()


class _Inspector:
    def __init__(self, records: RawSequence, ids: NDArray[np.uint64]) -> None:
        self._records, self._ids = records, ids
        self._damages: list[Damage] = []
        self._oldest: list[int] = []
        self._newest: list[int] = []
        number = records.prefix[-1]
        is_known = number in {kind.value for kind in Kind}
        self._kind = Kind(number) if is_known else Kind.EXPLICIT
        self._name = self._kind.name.lower() if is_known else f"kind {number}"
        if not is_known:
            self._damage("key", "there is no such kind")

    def inspect(self) -> SequenceInspection:
        records = self._records
        for key in records.foreign:
            self._damage(f"record {key.hex()}", "its key does not belong to this format")
        head = self._head()
        segments = tuple(self._segment(number, data) for number, data in sorted(records.segments.items()))
        chunks = tuple(self._chunk(number, head) for number in range(len(records.chunks)))
        if head is not None:
            self._compare(head, segments, chunks)
        return SequenceInspection(
            records.user,
            self._kind,
            head,
            len(records.head or b""),
            segments,
            chunks,
            records.row_key_bytes,
            records.chunk_key_bytes,
            min(self._oldest, default=None),
            max(self._newest, default=None),
            tuple(self._damages),
        )

    def _damage(self, record: str, why: object) -> None:
        text = why.what if isinstance(why, CorruptRecordError) else str(why)
        self._damages.append(Damage(self._records.user, f"{self._name} {record}", text))

    def _head(self) -> Head | None:
        if self._records.head is None:
            self._damage("head", "it is missing")
            return None
        try:
            head = Head.unpack(self._records.head, len(self._ids))
            inline = unpack_events(head.inline)
            self._check_items(inline)
        except StoreError as error:
            self._damage("head", error)
            return None
        self._times(inline)
        return head

    def _segment(self, number: int, data: bytes) -> SegmentInspection:
        try:
            events = unpack_segments([data], b"")
            self._check_items(events)
        except StoreError as error:
            self._damage(f"segment {number}", error)
            return SegmentInspection(number, "broken", 0, len(data))
        self._times(events)
        return SegmentInspection(number, "raw" if data[:1] == RAW else "run", events.n, len(data))

    def _chunk(self, number: int, head: Head | None) -> ChunkInspection:
        fence, data = self._records.chunks[number]
        try:
            events = decode(data)
            chunk = Chunk.open(data)
            self._check_items(events)
        except StoreError as error:
            self._damage(keys.chunk_name(fence), error)
            return ChunkInspection(number, fence, False, 0, 0, 0, 0, "broken", 0, 0, 0, 0, len(data))
        sealed = head.sealed if head is not None else None
        skip = sealed.skip if sealed is not None and sealed.oldest == fence else 0
        if skip >= chunk.n:
            self._damage("head", f"it skips {skip} of the {chunk.n} events of the oldest chunk")
            skip = 0
        first = self._identity(events, 0)
        if first < fence:
            self._damage(keys.chunk_name(fence), f"its first event, {first}, is below its fence")
        following = self._records.chunks[number + 1][0] if number + 1 < len(self._records.chunks) else None
        if following is not None and self._identity(events, chunk.n - 1) >= following:
            self._damage(keys.chunk_name(fence), f"its last event is not below the next fence, {following}")
        self._oldest.append(int(events.timestamp_ms[skip]))
        self._newest.append(chunk.last_timestamp_ms)
        columns = chunk.timestamp_bytes, chunk.ordinal_bytes, chunk.code_bytes
        return ChunkInspection(
            number,
            fence,
            True,
            chunk.n,
            skip,
            chunk.first_timestamp_ms,
            chunk.last_timestamp_ms,
            chunk.encoding,
            len(data) - sum(columns),
            *columns,
            len(data),
        )

    def _compare(
        self, head: Head, segments: tuple[SegmentInspection, ...], chunks: tuple[ChunkInspection, ...]
    ) -> None:
        """Add a damage for each contradiction between head, segments and chunks."""
        stored = {segment.number for segment in segments}
        for number in sorted(stored ^ set(range(head.segments))):
            self._damage(f"segment {number}", "the head does not count it" if number in stored else "it is missing")
        events = sum(segment.events for segment in segments)
        is_complete = stored == set(range(head.segments)) and all(segment.form != "broken" for segment in segments)
        if is_complete and events != head.in_segments:
            self._damage("head", f"it counts {head.in_segments} events in segments, but {events} are stored")
        if head.sealed is None:
            if chunks:
                self._damage("head", f"it counts no chunks, but {len(chunks)} are stored")
            return
        if not chunks or chunks[0].fence != head.sealed.oldest:
            self._damage(
                keys.chunk_name(head.sealed.oldest), "it is missing, or it is not the oldest chunk, as the head says"
            )
        if all(chunk.intact for chunk in chunks):
            sealed = sum(chunk.events - chunk.skip for chunk in chunks)
            if sealed != head.sealed.events:
                self._damage("head", f"it counts {head.sealed.events} sealed events, but {sealed} are stored")

    def _check_items(self, events: EventColumns) -> None:
        if events.n and int(events.ordinal.max()) >= len(self._ids):
            raise CorruptRecordError("it has an item ordinal that the partition does not have")

    def _times(self, events: EventColumns) -> None:
        if events.n:
            self._oldest.append(int(events.timestamp_ms.min()))
            self._newest.append(int(events.timestamp_ms.max()))

    def _identity(self, events: EventColumns, row: int) -> Identity:
        return Identity(int(events.timestamp_ms[row]), int(self._ids[events.ordinal[row]]), int(events.code[row]))
