"""Fingerprints of the partitions on disk: as stored, as recounted, and compared between two directories."""

from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from lifeline.config import Settings
from lifeline.core.paths import partition_dir
from lifeline.store.errors import StoreError
from lifeline.store.fingerprint import as_text
from lifeline.store.memory import SharedMemory
from lifeline.store.recount import Recount, recount
from lifeline.store.retention import RetentionPolicy
from lifeline.store.secondary_partition import SecondaryPartition
from lifeline.store.state import State


class StoredFingerprint(NamedTuple):
    """The fingerprint of one partition on disk."""

    partition: int
    state: State = State()
    """Its stored state; that of an empty partition if it cannot be opened."""
    policy: RetentionPolicy | None = None
    recounted: Recount | None = None
    """The sum over its events; None if it was not requested, or failed."""
    why: str = ""
    """Why it, or an event of it, cannot be read."""

    @property
    def problem(self) -> str:
        """What is wrong with it, in a sentence; empty if nothing is."""
        if not self.differs or self.recounted is None:
            return self.why
        state, counted = self.state, self.recounted
        return (
            f"its state has {as_text(state.fingerprint)} of {state.events:,} events, but its events add up to "
            f"{as_text(counted.fingerprint)} of {counted.events:,}: set its directory aside and start the node again; "
            "it rebuilds the state from the topic"
        )

    @property
    def differs(self) -> bool:
        """Whether the sum over its events is not the stored one."""
        return self.recounted is not None and self.recounted != (self.state.events, self.state.fingerprint)

    @property
    def cells(self) -> tuple[object, object, str, str]:
        """Offset, events, fingerprint and what the recount says, for people."""
        state, counted = self.state, self.recounted
        if self.policy is None:
            return "-", "-", "-", Likeness.UNREADABLE.value
        if self.why:
            result = Likeness.UNREADABLE.value
        elif counted is None:
            result = ""
        else:
            result = "recount differs" if self.differs else "recount equal"
        return state.applied_offset, f"{state.events:,}", as_text(state.fingerprint), result

    def as_json(self) -> dict[str, object]:
        """Return everything, for programs."""
        counted = self.recounted
        return {
            "partition": self.partition,
            "applied_offset": self.state.applied_offset,
            "events": self.state.events,
            "fingerprint": as_text(self.state.fingerprint),
            "recounted": counted and {"events": counted.events, "fingerprint": as_text(counted.fingerprint)},
            "differs": self.differs,
            "why": self.why,
        }


class Likeness(StrEnum):
    """The result of comparing two copies of a partition."""

    EQUAL = "equal"
    DIFFERENT = "DIFFERENT"
    OTHER_OFFSET = "other offset"
    """Copies at different offsets cannot be compared."""
    ONLY_HERE = "only here"
    ONLY_THERE = "only there"
    UNREADABLE = "cannot be read"


class PartitionPair(NamedTuple):
    """One partition in two directories."""

    partition: int
    here: StoredFingerprint | None
    there: StoredFingerprint | None

    @property
    def likeness(self) -> Likeness:
        """The result of the comparison."""
        here, there = self.here, self.there
        if there is None:
            return Likeness.ONLY_HERE
        if here is None:
            return Likeness.ONLY_THERE
        if here.why or there.why:
            return Likeness.UNREADABLE
        if here.state.applied_offset != there.state.applied_offset:
            return Likeness.OTHER_OFFSET
        return Likeness.EQUAL if here.state == there.state else Likeness.DIFFERENT

    @property
    def note(self) -> str:
        """What to do if the two differ; empty if they do not."""
        if self.likeness is not Likeness.DIFFERENT or self.here is None or self.there is None:
            return ""
        if self.here.policy != self.there.policy:
            return "they have different caps or ages: compare copies with the same retention policy"
        return "`lifeline verify` tells which of the two agrees with the topic"


def stored_fingerprints(
    settings: Settings, data_dir: Path, partitions: Iterable[int], *, recounted: bool
) -> list[StoredFingerprint]:
    """Read the fingerprint of each partition, also beside a running node; `why` says what cannot be read."""
    memory = SharedMemory(settings.store)
    return [_stored(partition_dir(data_dir, number), number, memory, recounted=recounted) for number in partitions]


def pair_partitions(here: Iterable[StoredFingerprint], there: Iterable[StoredFingerprint]) -> list[PartitionPair]:
    """Pair the partitions of two directories, ascending."""
    left, right = ({stored.partition: stored for stored in side} for side in (here, there))
    return [PartitionPair(number, left.get(number), right.get(number)) for number in sorted({*left, *right})]


def _stored(path: Path, number: int, memory: SharedMemory, *, recounted: bool) -> StoredFingerprint:
    try:
        store = SecondaryPartition.open(path, partition=number, memory=memory)
    except StoreError as error:
        return StoredFingerprint(number, why=str(error))
    try:
        stored = StoredFingerprint(number, store.state, store.policy)
        try:
            return stored._replace(recounted=recount(store)) if recounted else stored
        except StoreError as error:
            return stored._replace(why=str(error))
    finally:
        store.close()
