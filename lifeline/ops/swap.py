"""Replacing a node's partitions with replayed ones, safely against a crash at any point.

Each partition takes two renames: the old directory becomes `partition-N.replaced-<UTC>`, and the new one gets its
name. The journal `swap.json` is written first and removed last. While it exists, no node starts in the directory, and
the same command resumes the swap.
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
from lifeline.store.data_lock import SWAP_JOURNAL, data_dir_lock


class _SwapJournal(NamedTuple):
    """The journal."""

    into: str
    """Where the replayed partitions are."""
    partitions: list[int]
    stamp: str

    @classmethod
    def read(cls, path: Path) -> Self:
        try:
            fields = json.loads(path.read_text())
            return cls(str(fields["into"]), [int(number) for number in fields["partitions"]], str(fields["stamp"]))
        except (ValueError, KeyError, TypeError) as error:
            raise DataDirError(
                f"{path} is not a valid journal of a swap: move each partition to its place by hand, as the "
                "directories beside it show, and remove the journal"
            ) from error


def swap(data_dir: Path, into: Path, partitions: Sequence[int]) -> list[Path]:
    """Replace the node's partitions with those of `into`; returns the directories of the replaced ones.

    If a swap of the same `into` was interrupted, this call finishes that one, with the partitions of its journal.
    Raises StoreLockedError while a node or a replay uses one of the directories, DataDirError, and ReplayError if the
    two are on different filesystems or another swap was interrupted.
    """
    with data_dir_lock(data_dir, may_finish_swap=True), data_dir_lock(into):
        journal = data_dir / SWAP_JOURNAL
        if journal.exists():
            plan = _SwapJournal.read(journal)
            if plan.into != str(into.resolve()):
                raise ReplayError(
                    f"a swap from {plan.into} was interrupted in {data_dir}: finish it first, with --into {plan.into}"
                )
        else:
            missing = [number for number in partitions if not partition_dir(into, number).is_dir()]
            if missing:
                raise ReplayError(f"{into} has no partition {missing[0]}: replay it first")
            if data_dir.stat().st_dev != into.stat().st_dev:
                raise ReplayError(
                    f"{into} is on another filesystem than {data_dir}, so it cannot be renamed atomically: replay into "
                    "a directory on the same one"
                )
            stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
            plan = _SwapJournal(str(into.resolve()), sorted(partitions), stamp)
            write_durably(journal, json.dumps(plan._asdict()))
        if (into / TOPIC_NOTE).exists():
            (into / TOPIC_NOTE).replace(data_dir / TOPIC_NOTE)
        replaced = [_swap_partition(data_dir, into, number, plan.stamp) for number in plan.partitions]
        for directory in (into, data_dir):
            sync_directory(directory)
        journal.unlink()
        sync_directory(data_dir)
    return [path for path in replaced if path is not None]


def _swap_partition(data_dir: Path, into: Path, number: int, stamp: str) -> Path | None:
    live, new = partition_dir(data_dir, number), partition_dir(into, number)
    kept = live.with_name(f"{live.name}.replaced-{stamp}")
    # If `new` is missing, this partition is done. If `live` is, its first rename is done, or the node had none.
    if new.exists():
        if live.exists():
            live.rename(kept)
            sync_directory(data_dir)
        new.rename(live)
    return kept if kept.exists() else None
