"""Fingerprints of partitions at fixed offsets, so that two nodes with the same partition can compare them.

Every node ends a batch at each multiple of ``updater.fingerprint_every``, and keeps the fingerprint of the state there.
The fingerprints of one offset must be equal, because the state at an offset is a function of the log alone.
"""

import threading
from collections.abc import Iterable, Mapping
from typing import NamedTuple, Protocol

_MAX_FINGERPRINTS = 256


class AppliedState(Protocol):
    """A store's state at one moment; `store.state.State` implements it."""

    @property
    def applied_offset(self) -> int:
        """The last offset that is part of it; -1 before the first."""

    @property
    def fingerprint(self) -> int:
        """The fingerprint of the state at that offset."""


class Fingerprint(NamedTuple):
    """The fingerprint of the state before an offset."""

    offset: int
    fingerprint: int


class Mismatch(NamedTuple):
    """The first offset at which the fingerprints of two nodes differ."""

    offset: int
    local: int
    remote: int


class FingerprintLog:
    """The last fingerprints of every partition of this node. Every method may be called from any thread."""

    def __init__(self, every: int) -> None:
        self._every = every
        self._by_partition: dict[int, dict[int, int]] = {}
        self._lock = threading.Lock()

    def end_of_batch(self, first: int) -> int:
        """Return the offset before which a batch that begins with `first` has to end."""
        return (first // self._every + 1) * self._every

    def before_batch(self, partition: int, state: AppliedState, first: int) -> None:
        """Record the state's fingerprint if the batch at offset `first` is the first one after a multiple."""
        boundary = first // self._every * self._every
        if boundary <= state.applied_offset or boundary == 0:
            return
        with self._lock:
            by_offset = self._by_partition.setdefault(partition, {})
            by_offset[boundary] = state.fingerprint
            while len(by_offset) > _MAX_FINGERPRINTS:
                del by_offset[next(iter(by_offset))]

    def forget(self, partition: int) -> None:
        """Forget a partition that left this node: its next store may be another one."""
        with self._lock:
            self._by_partition.pop(partition, None)

    def of(self, partition: int, state: AppliedState | None = None) -> list[Fingerprint]:
        """Return the fingerprints of a partition, ascending by offset, with that of `state` if it is set."""
        with self._lock:
            by_offset = dict(self._by_partition.get(partition, {}))
        if state is not None and state.applied_offset >= 0:
            by_offset[state.applied_offset + 1] = state.fingerprint
        return [Fingerprint(*item) for item in sorted(by_offset.items())]


def first_difference(local: Iterable[Fingerprint], remote: Iterable[Fingerprint]) -> Mismatch | None:
    """Return the first offset at which both have a fingerprint and the two differ; None if there is none."""
    remote_by_offset: Mapping[int, int] = dict(remote)
    mismatches = (
        Mismatch(entry.offset, entry.fingerprint, remote_by_offset[entry.offset])
        for entry in local
        if remote_by_offset.get(entry.offset, entry.fingerprint) != entry.fingerprint
    )
    return min(mismatches, default=None)
