"""Putting a replay in the place of a node's partitions, so that no crash leaves them half one and half the other.

Each partition takes two renames: the old directory becomes `partition-N.replaced-<UTC>`, and the new one takes its
name. What is to be done is written to `swap.json` first and removed last. While it is there no node starts in the
directory, and the same swap goes on where it was interrupted.
"""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, Self

from lifeline.core.atomic_files import sync_directory, write_durably
from lifeline.core.errors import DataDirError, ReplayError
from lifeline.core.paths import partition_dir
from lifeline.ops.topic_note import TOPIC_NOTE
from lifeline.store.data_lock import SWAP_JOURNAL, locked


class _Swap(NamedTuple):
    """The journal."""

    into: str
    """Where the replayed partitions are."""
    partitions: list[int]
    stamp: str

    @classmethod
    def read(cls, path: Path) -> Self:
        try:
            found = json.loads(path.read_text())
            return cls(str(found["into"]), [int(number) for number in found["partitions"]], str(found["stamp"]))
        except (ValueError, KeyError, TypeError) as error:
            raise DataDirError(
                f"{path} is not what a swap writes: see which partitions stand beside it, put each in its place by "
                "hand, and remove it"
            ) from error


def swap(data_dir: Path, into: Path, partitions: Sequence[int]) -> list[Path]:
    """Put the partitions of `into` in the place of the node's; returns the directories that they replaced.

    A swap of the same `into` that was interrupted is finished first, with the partitions that it named. Raises
    StoreLockedError while a node or a replay is at work in one of them, DataDirError, and ReplayError when the two
    are not on one filesystem or another swap was interrupted.
    """
    with locked(data_dir, may_finish_swap=True), locked(into):
        journal = data_dir / SWAP_JOURNAL
        if journal.exists():
            begun = _Swap.read(journal)
            if begun.into != str(into.resolve()):
                raise ReplayError(
                    f"a swap from {begun.into} was interrupted in {data_dir}: finish it first, with --into {begun.into}"
                )
        else:
            missing = [number for number in partitions if not partition_dir(into, number).is_dir()]
            if missing:
                raise ReplayError(f"{into} has no partition {missing[0]}: replay it first")
            if data_dir.stat().st_dev != into.stat().st_dev:
                raise ReplayError(
                    f"{into} is on another filesystem than {data_dir}, and only a rename is safe: replay into a "
                    "directory beside it"
                )
            stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
            begun = _Swap(str(into.resolve()), sorted(partitions), stamp)
            write_durably(journal, json.dumps(begun._asdict()))
        if (into / TOPIC_NOTE).exists():
            (into / TOPIC_NOTE).replace(data_dir / TOPIC_NOTE)
        replaced = [_swap_one(data_dir, into, number, begun.stamp) for number in begun.partitions]
        for directory in (into, data_dir):
            sync_directory(directory)
        journal.unlink()
        sync_directory(data_dir)
    return [path for path in replaced if path is not None]


def _swap_one(data_dir: Path, into: Path, number: int, stamp: str) -> Path | None:
    live, new = partition_dir(data_dir, number), partition_dir(into, number)
    kept = live.with_name(f"{live.name}.replaced-{stamp}")
    # Without `new` it has been done before the interruption; without `live` half of it, or there never was one.
    if new.exists():
        if live.exists():
            live.rename(kept)
            sync_directory(data_dir)
        new.rename(live)
    return kept if kept.exists() else None
