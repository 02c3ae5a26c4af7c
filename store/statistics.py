"""Statistics of RocksDB and its caches for an open partition, for metrics and `lifeline inspect`."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from rocksdict import Rdict

_PREFIX = "rocksdb."
_LEVELS = 7


class FamilyStatistics(NamedTuple):
    """One column family at one moment; sizes in bytes."""

    keys: int
    """Approximate number of keys."""
    table_bytes: int
    """Size of the tables in use on disk."""
    tables: int
    """Number of tables."""
    memtable_bytes: int
    """Memtables in memory."""
    table_reader_bytes: int
    """Filters and indices in memory outside the block cache."""
    pending_compaction_bytes: int
    """Data that compactions still have to rewrite."""
    level_zero_tables: int
    """Tables on level 0, whose key ranges may overlap."""


class PartitionStatistics(NamedTuple):
    """One partition at one moment."""

    families: dict[str, FamilyStatistics]
    block_cache_bytes: int
    """Of the whole process."""
    block_cache_pinned_bytes: int
    """Of the whole process."""
    wal_bytes: int
    """Write-ahead log on disk."""
    directory_bytes: int
    """Every file of the partition."""
    open_views: int
    background_errors: int
    writes_stopped: bool


def family_statistics(family: Rdict) -> FamilyStatistics:
    """Return RocksDB's statistics of one family."""
    return FamilyStatistics(
        keys=number(family, "estimate-num-keys"),
        table_bytes=number(family, "live-sst-files-size"),
        tables=sum(number(family, f"num-files-at-level{level}") for level in range(_LEVELS)),
        memtable_bytes=number(family, "cur-size-all-mem-tables"),
        table_reader_bytes=number(family, "estimate-table-readers-mem"),
        pending_compaction_bytes=number(family, "estimate-pending-compaction-bytes"),
        level_zero_tables=number(family, "num-files-at-level0"),
    )


def files_in(directory: Path) -> Iterator[tuple[Path, int]]:
    """Yield each file of a directory and its size in bytes; files that disappear meanwhile are skipped."""
    for path in directory.iterdir():
        with suppress(FileNotFoundError):
            yield path, path.stat().st_size


def number(family: Rdict, name: str) -> int:
    """Return an integer property of RocksDB, or 0 if it has none of this name."""
    value: int | None = family.property_int_value(_PREFIX + name)
    return value or 0
