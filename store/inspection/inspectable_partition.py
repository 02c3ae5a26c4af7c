"""A secondary partition with access to its raw records and tables, for inspection."""

import re
from collections.abc import Iterator
from typing import NamedTuple

from rocksdict import Rdict

from lifeline.store.errors import StoreError
from lifeline.store.secondary_partition import SecondaryPartition

# Table files as RocksDB lists them, level by level; the keys of a line are in hexadecimal.
_LEVEL = re.compile(r"--- level (\d+) ---")
_TABLE = re.compile(r" \d+:(\d+)\[")


class TableGroup(NamedTuple):
    """The tables of one family on one level."""

    family: str
    level: int
    tables: int
    """Number of files."""
    bytes: int


class InspectablePartition(SecondaryPartition):
    """A partition for inspection. Every method may be called from any thread."""

    def meta(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield the records of the family `meta`; call it while a view is open. Raises StoreError."""
        iterator = self.database.meta.iter()
        iterator.seek_to_first()
        while iterator.valid():
            yield iterator.key(), iterator.value()
            iterator.next()
        try:
            iterator.status()
        except Exception as error:  # rocksdict raises bare Exception
            raise StoreError(f"RocksDB cannot continue reading ({error}): check the disk") from error

    def tables(self) -> tuple[TableGroup, ...]:
        """Return the tables in use, by family and level."""
        return tuple(group for name, family in self.database.families.items() for group in _groups(name, family))


def _groups(name: str, family: Rdict) -> Iterator[TableGroup]:
    level, sizes = 0, dict[int, list[int]]()
    listed: str = family.property_value("rocksdb.sstables") or ""
    for line in listed.splitlines():
        if match := _LEVEL.match(line):
            level = int(match[1])
        elif match := _TABLE.match(line):
            sizes.setdefault(level, []).append(int(match[1]))
    for number, table_sizes in sorted(sizes.items()):
        yield TableGroup(name, number, len(table_sizes), sum(table_sizes))
