"""The age of each partition's newest snapshot, listed once a minute: a listing is too slow for a scrape."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence

import structlog

from lifeline.store.errors import SnapshotError
from lifeline.store.snapshots.repository import SnapshotRepository

_LOOK_S = 60.0

_log = structlog.get_logger(__name__)


class SnapshotAges:
    """Follows the snapshots of the partitions that `owned` gives."""

    def __init__(self, snapshots: SnapshotRepository | None, owned: Callable[[], Sequence[int]]) -> None:
        self._snapshots, self._owned = snapshots, owned
        self._made_at: dict[int, float] = {}

    async def follow(self) -> None:
        """List snapshots until cancelled; without a repository it only waits."""
        while self._snapshots is not None:
            await asyncio.to_thread(self._look, self._snapshots)
            await asyncio.sleep(_LOOK_S)
        await asyncio.Event().wait()

    def _look(self, snapshots: SnapshotRepository) -> None:
        found = {}
        for number in self._owned():
            try:
                whole = [
                    snapshot.manifest
                    for snapshot in snapshots.snapshots(number)
                    if snapshot.manifest and snapshot.refused is None
                ]
            except SnapshotError as error:
                # Keep the last time: its age keeps growing, and the alert fires on it.
                _log.warning("snapshots cannot be listed", partition=number, why=str(error))
                if number in self._made_at:
                    found[number] = self._made_at[number]
                continue
            if whole:
                found[number] = whole[0].created_at.timestamp()
        self._made_at = found

    def seconds(self) -> Mapping[int, float]:
        """Return the ages, seconds by partition; callable from any thread."""
        now = time.time()
        return {number: max(0.0, now - at) for number, at in self._made_at.items()}
