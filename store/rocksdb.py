"""RocksDB: opening databases, options, translation of errors, and reads of several keys."""

import re
import time
from pathlib import Path
from typing import NamedTuple, Self

from rocksdict import (
    AccessType,
    BlockBasedOptions,
    BottommostLevelCompaction,
    CompactOptions,
    DBCompressionType,
    DBPath,
    Options,
    Rdict,
)

from lifeline.store.disk_space import NO_SPACE
from lifeline.store.errors import OpenFilesError, StoreError, StoreLockedError
from lifeline.store.memory import SharedMemory
from lifeline.store.open_files import PARTITION_FILES, is_limit_reached, raise_limit

FAMILIES = ("rows", "chunks", "meta")
"""The column families: heads and segments; sealed chunks; everything else."""
_KIB, _MIB = 1 << 10, 1 << 20
_STAND_STILL_S = 10.0
_CURRENT = re.compile(rb"(MANIFEST-\d+)\n")
_ANY_SIZE = 1 << 60


def open_primary(path: Path, memory: SharedMemory) -> Rdict:
    """Open or create a partition's database; raises StoreLockedError, StoreError."""
    path.mkdir(parents=True, exist_ok=True)
    if not (path / "CURRENT").exists() and next(path.glob("*.sst"), None) is not None:
        # RocksDB would create a new database here and delete the tables.
        raise StoreError(
            f"{path} has tables but no file CURRENT, which names the tables in use: check the disk, or set the "
            "directory aside to rebuild it from the topic"
        )
    try:
        return _open(path, database_options(memory), memory, AccessType.read_write())
    except Exception as error:  # rocksdict raises bare Exception
        if f"{path}/LOCK: " in str(error):
            raise StoreLockedError(
                f"{path} is open in another process: stop that node, or give this one its own node.data_dir"
            ) from error
        check_limit(error, path)
        if NO_SPACE in str(error):
            raise StoreError(
                f"{path} does not open, because its disk is full ({error}): free 64 MiB or more on it, then restart "
                "the node"
            ) from error
        raise StoreError(
            f"{path} does not open ({error}): check the disk, or set the directory aside to rebuild it from the topic"
        ) from error


class SecondaryDatabase(NamedTuple):
    """A secondary's database, and the content of CURRENT when it was opened."""

    db: Rdict
    current: bytes


class _FileVersions(NamedTuple):
    """What changes in a directory when the writer creates or removes a file that a secondary reads."""

    current: bytes
    logs: frozenset[str]

    @classmethod
    def of(cls, path: Path) -> Self:
        return cls((path / "CURRENT").read_bytes(), frozenset(log.name for log in path.glob("*.log")))


def open_secondary(path: Path, memory: SharedMemory, own: Path) -> SecondaryDatabase:
    """Open a database that another process may be writing; `own` is a directory for the files of this instance.

    Nothing is written to `path`, which may be read-only: RocksDB and its Python binding open `own`/database, which has
    a copy of CURRENT and a link to the manifest, and are told that logs and tables are in `path`.

    RocksDB reads the manifest first, then the write-ahead logs. A log that disappears in between would leave one family
    older than another. A log is removed only after a manifest has made it obsolete; each manifest is a new file (see
    `database_options`), and CURRENT names it: if CURRENT has not changed, no log that is needed was missed. If an
    obsolete log disappears between being listed and being opened, RocksDB silently reads no log at all: so the set of
    logs must not have changed either. For the same reason an error counts only if both are unchanged.

    Raises StoreError.
    """
    if not (path / "CURRENT").exists():
        raise StoreError(f"{path} holds no store: name the data directory of a node that has run")
    options = database_options(memory, files=path)
    deadline = time.monotonic() + _STAND_STILL_S
    try:
        while time.monotonic() < deadline:
            before = _FileVersions.of(path)
            try:
                db = _open(_pinned(path, own, before.current), options, memory, AccessType.secondary(str(own)))
            except Exception:
                if _FileVersions.of(path) == before:
                    raise
                continue
            if _FileVersions.of(path) == before:
                return SecondaryDatabase(db, before.current)
            db.close()
    except Exception as error:  # rocksdict raises bare Exception
        check_limit(error, path)
        raise StoreError(
            f"{path} does not open for reading ({error}): check the disk, and that this user may read the directory"
        ) from error
    raise StoreError(f"{path} changes faster than it can be followed: try again")


def _pinned(path: Path, own: Path, current: bytes) -> Path:
    """Return a directory in `own` that has `current` as its file CURRENT, and a link to the manifest that it names."""
    pinned = own / "database"
    pinned.mkdir(exist_ok=True)
    for manifest in pinned.glob("MANIFEST-*"):
        manifest.unlink()
    (pinned / "CURRENT").write_bytes(current)
    # RocksDB reports a file CURRENT that names no manifest.
    if match := _CURRENT.fullmatch(current):
        name = match[1].decode()
        (pinned / name).symlink_to(path.absolute() / name)
    return pinned


def catch_up(secondary: SecondaryDatabase, path: Path) -> bool:
    """Replay what the writer has logged since; returns False if the database must be opened again instead.

    This is so if the writer has started a new manifest, because data replayed from a log would hide newer data in
    tables, and if a log appeared or disappeared during the call. Raises StoreError.
    """
    current = path / "CURRENT"
    try:
        before = _FileVersions.of(path)
        if before.current != secondary.current:
            return False
        secondary.db.try_catch_up_with_primary()
        return _FileVersions.of(path) == before
    except Exception as error:  # rocksdict raises bare Exception
        if current.read_bytes() != secondary.current:
            return False
        check_limit(error, path)
        raise StoreError(
            f"{path} cannot be followed ({error}): open it again; if that fails too, check the disk"
        ) from error


def check_limit(error: Exception, path: Path) -> None:
    """Raise OpenFilesError if `error` says that this process may open no further file."""
    if is_limit_reached(error):
        tables = sum(1 for _ in path.glob("*.sst"))
        limit = raise_limit()
        raise OpenFilesError(
            f"{path}, with {tables:,} tables, and what is open already", limit + tables + PARTITION_FILES, limit
        ) from error


def _open(path: Path, options: Options, memory: SharedMemory, access: AccessType) -> Rdict:
    return Rdict(str(path), options, {name: family_options(name, memory) for name in FAMILIES}, access)


def database_options(memory: SharedMemory, files: Path | None = None) -> Options:
    """Return the options of one partition's database; for a secondary, `files` is the directory that the writer has."""
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.create_missing_column_families(True)
    options.set_write_buffer_manager(memory.write_buffers)
    # Only of the empty default family. After a full disk, RocksDB waits until the largest write buffer has room.
    options.set_write_buffer_size(16 * _MIB)
    # Bounds the log that the next open replays.
    options.set_max_total_wal_size(memory.settings.max_wal_mib * _MIB)
    options.set_max_background_jobs(2)
    if files is None:
        options.set_max_open_files(memory.files.max_open_files)
    else:
        # Keep every file open: the writer may delete a file that the secondary still reads.
        options.set_max_open_files(-1)
        options.set_wal_dir(str(files))
        options.set_db_paths([DBPath(str(files), _ANY_SIZE)])
    # A manifest keeps the boundary keys of deleted files, and keys name users: start a new manifest each time.
    options.set_max_manifest_file_size(1)
    options.set_keep_log_file_num(2)
    options.set_max_log_file_size(_MIB)
    options.set_stats_dump_period_sec(0)
    options.set_stats_persist_period_sec(0)
    return options


def family_options(name: str, memory: SharedMemory) -> Options:
    """Return the options of one of its column families."""
    options = Options(raw_mode=True)
    options.set_write_buffer_manager(memory.write_buffers)
    options.set_write_buffer_size(16 * _MIB)
    options.set_arena_block_size(64 * _KIB)
    blocks = BlockBasedOptions()
    blocks.set_block_cache(memory.cache)
    blocks.set_cache_index_and_filter_blocks(True)
    blocks.set_pin_l0_filter_and_index_blocks_in_cache(True)
    blocks.set_bloom_filter(10, False)
    blocks.set_format_version(5)
    blocks.set_block_size(16 * _KIB)
    if name == "rows":
        # Most lookups of heads miss the memtable, and a lookup in its skip list takes a microsecond. The bloom filter
        # takes about 20 bits a key; RocksDB allocates it with the memtable. Half the usual memtable size fits the
        # processor's cache better: 5 to 8 % more cold appends.
        options.set_write_buffer_size(8 * _MIB)
        options.set_memtable_prefix_bloom_ratio(0.01)
        options.set_memtable_whole_key_filtering(True)
        # Heads and segments are overwritten often, and a read skips their older versions: stepping over them is
        # faster than a new seek, which RocksDB would do after eight.
        options.set_max_sequential_skip_in_iterations(32)
        options.set_compression_type(DBCompressionType.none())
        options.set_bottommost_compression_type(DBCompressionType.zstd())
    else:
        # Chunks are already compressed.
        options.set_compression_type(DBCompressionType.none())
    options.set_block_based_table_factory(blocks)
    return options


def compact_range(family: Rdict, start: bytes | None = None, end: bytes | None = None) -> None:
    """Compact the keys from `start` to `end`, by default all. Releases the GIL."""
    options = CompactOptions()
    # Without force, a file that only moves down a level is not rewritten, and stays uncompressed.
    options.set_bottommost_level_compaction(BottommostLevelCompaction.force())
    family.compact_range(start, end, options)


def keys_between(family: Rdict, start: bytes, end: bytes) -> list[bytes]:
    """Return the keys from `start` to below `end`, ascending.

    The iterator stays local to this function: if an error's traceback kept it alive, the files would stay locked.
    """
    selected: list[bytes] = []
    iterator = family.iter()
    iterator.seek(start)
    while iterator.valid() and iterator.key() < end:
        selected.append(iterator.key())
        iterator.next()
    return selected


def get_many(family: Rdict, requested: list[bytes]) -> list[bytes | None]:
    """Return the value of each key, or None. Releases the GIL."""
    values: list[bytes | None] = family.get([*requested]) or []
    return values
