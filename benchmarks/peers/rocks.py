"""RocksDB as the peers have it: the plain one's settings, and the size of what any of them leaves on disk."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from rocksdict import (
    BlockBasedOptions,
    BottommostLevelCompaction,
    Cache,
    CompactOptions,
    DBCompressionType,
    Options,
    Rdict,
)

from benchmarks.peers.peer import Peer


class PlainPeer(Peer):
    """A peer that is RocksDB itself, without a product around it."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._database = Rdict(str(directory), plain_options())

    def stored(self, key: bytes) -> bytes:
        """Return a key's value; none for a key that is new."""
        return self._database.get(key) or b""

    def settle(self) -> int:
        """Compact, and return the bytes of the SST files."""
        self._database.close()
        held = compacted_bytes(self.directory, plain_options)
        self._database = Rdict(str(self.directory), plain_options())
        return held

    def close(self) -> None:
        """Close the database."""
        self._database.close()


def plain_options() -> Options:
    """Return the settings of the peers that are nobody's product: zstd and blocks of 16 KB, as Lifeline's own."""
    tables = BlockBasedOptions()
    tables.set_block_size(16 * 1024)
    tables.set_block_cache(Cache(64 << 20))
    tables.set_bloom_filter(10, False)
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_compression_type(DBCompressionType.zstd())
    options.set_block_based_table_factory(tables)
    return options


def compacted_bytes(directory: Path, options: Callable[[], Any]) -> int:
    """Compact a closed database to its last level, in its owner's settings; return the bytes of its SST files."""
    path = str(directory)
    families = {name: options() for name in Rdict.list_cf(path, options())}
    force = CompactOptions()
    force.set_bottommost_level_compaction(BottommostLevelCompaction.force())
    database = Rdict(path, options(), families)
    for name in families:
        family = database.get_column_family(name)
        family.flush()
        family.compact_range(None, None, force)
        family.close()
    database.close()
    return sum(file.stat().st_size for file in directory.rglob("*.sst"))
