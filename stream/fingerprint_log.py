"""Fingerprints of a partition at fixed offsets, so that two nodes that hold it can compare.

Every node cuts its batches at the multiples of ``updater.fingerprint_every``, and keeps the fingerprint of what lies
below each. Two of one offset have to be equal, for the state at an offset is a function of the log alone.
"""

import threading
from collections.abc import Iterable, Mapping
from typing import NamedTuple, Protocol

_KEPT = 256


class StateAt(Protocol):
    """A store's state at one moment: `store.state.State` is one."""

    @property
    def applied_offset(self) -> int:
        """The last offset that is part of it; -1 before the first."""

    @property
    def fingerprint(self) -> int:
        """Of the state at that offset."""


class Fingerprint(NamedTuple):
    """The fingerprint of everything below an offset."""

    offset: int
    fingerprint: int


class Mismatch(NamedTuple):
    """The first offset at which two nodes differ."""

    offset: int
    ours: int
    theirs: int


class FingerprintLog:
    """The last fingerprints of every partition held here. Every method may be called from any thread."""

    def __init__(self, every: int) -> None:
        self._every = every
        self._kept: dict[int, dict[int, int]] = {}
        self._lock = threading.Lock()

    def end_of_batch(self, first: int) -> int:
        """Return the offset before which a batch that begins with `first` has to end."""
        return (first // self._every + 1) * self._every

    def before_batch(self, partition: int, state: StateAt, first: int) -> None:
        """Note the fingerprint of the state before a batch that begins with `first`, when that begins a stretch."""
        boundary = first // self._every * self._every
        if boundary <= state.applied_offset or boundary == 0:
            return
        with self._lock:
            kept = self._kept.setdefault(partition, {})
            kept[boundary] = state.fingerprint
            while len(kept) > _KEPT:
                del kept[next(iter(kept))]

    def forget(self, partition: int) -> None:
        """Forget a partition that is not held any more: its store may come back from elsewhere."""
        with self._lock:
            self._kept.pop(partition, None)

    def of(self, partition: int, state: StateAt | None = None) -> list[Fingerprint]:
        """Return what is kept of a partition, ascending by offset; with `state` that of now as well."""
        with self._lock:
            kept = dict(self._kept.get(partition, {}))
        if state is not None and state.applied_offset >= 0:
            kept[state.applied_offset + 1] = state.fingerprint
        return [Fingerprint(*each) for each in sorted(kept.items())]


def first_difference(ours: Iterable[Fingerprint], theirs: Iterable[Fingerprint]) -> Mismatch | None:
    """Return the first offset that both have with different fingerprints; None when all that both have are equal."""
    known: Mapping[int, int] = dict(theirs)
    differing = (
        Mismatch(entry.offset, entry.fingerprint, known[entry.offset])
        for entry in ours
        if known.get(entry.offset, entry.fingerprint) != entry.fingerprint
    )
    return min(differing, default=None)
