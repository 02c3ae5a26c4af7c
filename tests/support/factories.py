"""What the store's tests share: batches from plain tuples, and the state they must lead to, in plain Python."""

import random
import struct
from collections import defaultdict
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import mmh3
import numpy as np
import xxhash

from lifeline.core.actions import ActionBatch, Identity, Kind
from lifeline.core.sequence import SequenceQuery
from lifeline.store.chunk import EventColumns
from lifeline.store.errors import StoreError
from lifeline.store.memory import SharedMemory
from lifeline.store.partition import PartitionStore
from lifeline.store.readable_partition import ReadablePartition
from lifeline.store.reader import SequenceReader
from lifeline.store.secondary_partition import SecondaryPartition
from lifeline.store.settings import StoreSettings

TINY_MEMORY: dict[str, Any] = {"block_cache_mib": 8, "write_buffer_mib": 8}
HOUR_MS = 3_600_000
LAST_HOUR = (1 << 32) - 1
EVERYTHING = SequenceQuery(kinds=(Kind.EXPLICIT, Kind.IMPRESSION))


class Event(NamedTuple):
    """One action as the store sees it."""

    user: bytes
    timestamp_ms: int
    item_id: int
    code: int
    kind: Kind = Kind.EXPLICIT
    logged_ms: int | None = None
    """When the log took it; None: at its own time."""

    @property
    def identity(self) -> Identity:
        return Identity(self.timestamp_ms, self.item_id, self.code)


def batch_of(events: Iterable[Event]) -> ActionBatch:
    rows = list(events)
    return ActionBatch(
        [row.user for row in rows],
        np.array([row.timestamp_ms for row in rows], np.int64),
        np.array([row.item_id for row in rows], np.uint64),
        np.array([row.code for row in rows], np.uint16),
        np.array([row.kind for row in rows], np.uint8),
        np.array([row.timestamp_ms if row.logged_ms is None else row.logged_ms for row in rows], np.int64),
    )


def columns_of(rows: Iterable[tuple[int, int, int]]) -> EventColumns:
    """Return (timestamp_ms, ordinal, code) rows as columns."""
    events = list(rows)
    return EventColumns(
        np.array([row[0] for row in events], np.int64),
        np.array([row[1] for row in events], np.uint32),
        np.array([row[2] for row in events], np.uint16),
    )


def rows_of(events: EventColumns) -> list[tuple[int, int, int]]:
    return list(zip(events.timestamp_ms.tolist(), events.ordinal.tolist(), events.code.tolist(), strict=True))


@lru_cache(maxsize=1 << 17)
def event_hash(event: Event) -> int:
    """Return the 128-bit hash of one event by the reference implementation of murmur3."""
    user = xxhash.xxh3_128_digest(event.user)
    packed = user + struct.pack("<qQQQ", event.timestamp_ms, event.item_id, event.kind, event.code)
    return int.from_bytes(mmh3.mmh3_x64_128_digest(packed), "little")


class Model:
    """A partition as plain Python sets: what any order of arrival must lead to."""

    def __init__(self, settings: StoreSettings) -> None:
        self.settings = settings
        self.sequences: dict[tuple[bytes, Kind], set[Event]] = defaultdict(set)
        self.watermark_ms = 0

    def apply(self, events: Iterable[Event]) -> int:
        """Take events in; returns how many of those that were kept before have grown too old."""
        arrived = list(events)
        for event in arrived:
            logged_ms = event.timestamp_ms if event.logged_ms is None else event.logged_ms
            self.watermark_ms = max(self.watermark_ms, min(event.timestamp_ms, logged_ms))
        before = self.events
        self._cut()
        expired = before - self.events
        for event in arrived:
            self.sequences[event.user, event.kind].add(event._replace(logged_ms=None))
        self._cut()
        return expired

    def _cut(self) -> None:
        for key, kept in self.sequences.items():
            cap, since = self.settings.cap(key[1]), self.horizon_ms(key[1])
            if len(kept) > cap:
                kept = set(sorted(kept)[-cap:])  # noqa: PLW2901 - first the cap, then the age
            if since is not None:
                kept = {event for event in kept if event.timestamp_ms >= since}  # noqa: PLW2901
            self.sequences[key] = kept

    def horizon_ms(self, kind: Kind) -> int | None:
        """Return the time before which events of a kind are gone; None where nothing is too old."""
        age = self.settings.max_age_hours(kind)
        hour = min(self.watermark_ms // HOUR_MS, LAST_HOUR)
        return None if age is None or hour <= age else (hour - age) * HOUR_MS

    def erase(self, user: bytes) -> int:
        return sum(len(self.sequences.pop((user, kind), ())) for kind in Kind)

    def identities(self, user: bytes, kind: Kind) -> list[Identity]:
        return sorted(event.identity for event in self.sequences.get((user, kind), ()))

    @property
    def events(self) -> int:
        return sum(map(len, self.sequences.values()))

    @property
    def fingerprint(self) -> int:
        return sum(event_hash(event) for events in self.sequences.values() for event in events) % (1 << 128)

    def check(self, store: ReadablePartition) -> None:
        """Assert that a store holds exactly this."""
        users = sorted({user for user, _ in self.sequences})
        answers = SequenceReader(store).read_many([user.decode() for user in users], EVERYTHING)
        for user, answer in zip(users, answers, strict=True):
            for kind, sequence in answer.sequences.items():
                assert sequence.identities() == self.identities(user, kind)
                assert sequence.stored == sequence.length
        assert store.state.events == self.events
        assert store.fingerprint == self.fingerprint
        assert store.watermark_ms == self.watermark_ms
        assert sorted(store.users()) == sorted({user.decode() for (user, _), kept in self.sequences.items() if kept})


def tiny(**changes: float | None) -> StoreSettings:
    """Return settings under which a handful of events meets every part of the layout."""
    shape = {"max_explicit": 12, "max_impressions": 7, "chunk_events": 4, "keep_unsealed": 4, "inline_events": 2}
    return StoreSettings.model_validate(TINY_MEMORY | shape | {"run_segments": 2} | changes)


SHAPE = tiny(max_explicit=40)
ANN = [Event(b"ann", at, at % 3, 257) for at in range(30)]
BOB = [Event(b"bob", 2 * at, 7, 513, Kind(at % 2)) for at in range(12)]
# Under this one, `work` with steps of hours makes events expire all the time.
AGED = tiny(max_explicit=40, max_explicit_age_days=1, max_impression_age_days=2)


def open_store(path: Path, settings: StoreSettings, *, partition: int = 3) -> PartitionStore:
    return PartitionStore.open(path, partition=partition, settings=settings, memory=SharedMemory(settings))


def open_follower(path: Path, *, partition: int = 3) -> SecondaryPartition:
    return SecondaryPartition.open(path, partition=partition, memory=SharedMemory(tiny()))


def work(offset: int, step_ms: int = 1_000) -> list[Event]:
    """Return the events of one offset: late ones, repeats, ties, both kinds; offsets are `step_ms` apart."""
    rng = random.Random(offset)
    return [
        Event(
            rng.choice([b"ann", b"bob", b"cy", b"dee"]),
            max(0, offset - rng.choice([0, 0, 0, 1, 3, 40])) * step_ms + rng.randrange(3),
            rng.randrange(50 + offset // 4),
            rng.choice([257, 258]),
            rng.choice([Kind.EXPLICIT, Kind.EXPLICIT, Kind.IMPRESSION]),
        )
        for _ in range(rng.choice([1, 5, 20]))
    ]


def perform(target: PartitionStore | Model, offset: int, step_ms: int = 1_000) -> None:
    """Do what the log says at an offset: most are batches, some erase a user."""
    user = b"bob" if offset % 37 == 36 else None
    if isinstance(target, Model):
        target.apply(work(offset, step_ms)) if user is None else target.erase(user)
    elif user is None:
        target.apply(batch_of(work(offset, step_ms)), offset=offset)
    else:
        target.erase(user, offset=offset)


def outcome_of_waiting(store: PartitionStore) -> str:
    """Wait for what nobody applies, and return the name of the error that ends it."""
    try:
        store.wait_for(6, 20.0)
    except StoreError as error:
        return type(error).__name__
    return "nothing"
