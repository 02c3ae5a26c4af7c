"""What RocksDB and the caches say of an open partition, in numbers for metrics and for `inspect`."""

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
    """About how many keys it has."""
    table_bytes: int
    """Tables on disk that are in use."""
    tables: int
    """How many they are."""
    memtable_bytes: int
    """Memtables in memory."""
    table_reader_bytes: int
    """Filters and indices in memory outside the block cache."""
    pending_compaction_bytes: int
    """What compactions still have to rewrite."""
    level_zero_tables: int
    """Tables that may overlap."""


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
    """Return what RocksDB says of one family."""
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
    """Yield each file of a directory and its bytes; one that goes meanwhile is passed over."""
    for path in directory.iterdir():
        with suppress(FileNotFoundError):
            yield path, path.stat().st_size


def number(family: Rdict, name: str) -> int:
    """Return one of RocksDB's numbers, 0 where it has none."""
    value: int | None = family.property_int_value(_PREFIX + name)
    return value or 0
