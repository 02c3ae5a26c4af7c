"""The age of each partition's newest snapshot. Snapshots are listed once a minute: too slow for a scrape."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence

import structlog

from lifeline.store.errors import SnapshotError
from lifeline.store.snapshots.repository import SnapshotRepository

_LOOK_S = 60.0

_log = structlog.get_logger(__name__)


class SnapshotAges:
    """Lists the snapshots of the partitions that `owned` returns."""

    def __init__(self, snapshots: SnapshotRepository | None, owned: Callable[[], Sequence[int]]) -> None:
        self._snapshots, self._owned = snapshots, owned
        self._created_at: dict[int, float] = {}

    async def follow(self) -> None:
        """List snapshots until cancelled; without a repository it only waits."""
        while self._snapshots is not None:
            await asyncio.to_thread(self._list, self._snapshots)
            await asyncio.sleep(_LOOK_S)
        await asyncio.Event().wait()

    def _list(self, snapshots: SnapshotRepository) -> None:
        created_at = {}
        for number in self._owned():
            try:
                complete = [
                    snapshot.manifest
                    for snapshot in snapshots.snapshots(number)
                    if snapshot.manifest and snapshot.problem is None
                ]
            except SnapshotError as error:
                # Keep the last known time, so that the age grows and the alert fires.
                _log.warning("snapshots cannot be listed", partition=number, why=str(error))
                if number in self._created_at:
                    created_at[number] = self._created_at[number]
                continue
            if complete:
                created_at[number] = complete[0].created_at.timestamp()
        self._created_at = created_at

    def seconds(self) -> Mapping[int, float]:
        """Return the ages, seconds by partition; callable from any thread."""
        now = time.time()
        return {number: max(0.0, now - at) for number, at in self._created_at.items()}
