"""The layout of a node's data directory."""

import re
from pathlib import Path

from lifeline.core.errors import DataDirError

_PARTITION = re.compile(r"partition-(\d+)")


def partition_dir(data_dir: Path, partition: int) -> Path:
    """Return the directory of a partition's store."""
    return data_dir / f"partition-{partition:05d}"


def partitions_in(data_dir: Path) -> list[int]:
    """Return the partitions that have a directory, ascending; raises DataDirError if this user may not read it."""
    try:
        if not data_dir.is_dir():
            return []
        matches = (_PARTITION.fullmatch(entry.name) for entry in data_dir.iterdir() if entry.is_dir())
        return sorted(int(match[1]) for match in matches if match)
    except PermissionError as error:
        raise DataDirError(
            f"{data_dir} cannot be read ({error.strerror}): run the command as the user of the node, or let this user "
            "read the directory"
        ) from error


def items_dir(data_dir: Path) -> Path:
    """Return the directory of the embedding table."""
    return data_dir / "items"
