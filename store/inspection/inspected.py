"""A partition opened to be looked into: what a follower shows, and the records and tables behind it."""

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
    """How many files they are."""
    bytes: int


class InspectedPartition(SecondaryPartition):
    """A partition of another process or of none; every method may be called from any thread."""

    def meta(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield the records of the family `meta`, for use while a view is open; raises StoreError."""
        iterator = self.database.meta.iter()
        iterator.seek_to_first()
        while iterator.valid():
            yield iterator.key(), iterator.value()
            iterator.next()
        try:
            iterator.status()
        except Exception as error:  # rocksdict raises bare Exception
            raise StoreError(f"RocksDB cannot read on ({error}): check the disk") from error

    def tables(self) -> tuple[TableGroup, ...]:
        """Return the tables that are in use, by family and level."""
        return tuple(group for name, family in self.database.families.items() for group in _groups(name, family))


def _groups(name: str, family: Rdict) -> Iterator[TableGroup]:
    level, sizes = 0, dict[int, list[int]]()
    listed: str = family.property_value("rocksdb.sstables") or ""
    for line in listed.splitlines():
        if found := _LEVEL.match(line):
            level = int(found[1])
        elif found := _TABLE.match(line):
            sizes.setdefault(level, []).append(int(found[1]))
    for at, of_level in sorted(sizes.items()):
        yield TableGroup(name, at, len(of_level), sum(of_level))
