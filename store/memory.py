"""RocksDB's settings, and the memory that all partitions of a process share.

That is one block cache, one write-buffer budget inside it, one head cache, and one bound to item ids.
"""

from rocksdict import (
    BlockBasedOptions,
    BottommostLevelCompaction,
    Cache,
    CompactOptions,
    DBCompressionType,
    Options,
    Rdict,
    WriteBufferManager,
)

from lifeline.store.head_cache import HeadCache
from lifeline.store.item_budget import ItemBudget
from lifeline.store.settings import StoreSettings

_KIB, _MIB = 1 << 10, 1 << 20


class SharedMemory:
    """Made once a process and given to every PartitionStore."""

    def __init__(self, settings: StoreSettings) -> None:
        self.cache = Cache(settings.block_cache_mib * _MIB)
        # Never allow_stall: a stalled write holds the interpreter's lock, and then nothing ever ends.
        self.write_buffers = WriteBufferManager.new_write_buffer_manager_with_cache(
            settings.write_buffer_mib * _MIB, False, self.cache
        )
        self.heads = HeadCache(int(settings.head_cache_mib * _MIB))
        self.items = ItemBudget(settings.max_items)
        self.settings = settings


def database_options(memory: SharedMemory, *, follows: bool) -> Options:
    """Return the options of one partition's database; `follows` for one that another process writes."""
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.create_missing_column_families(True)
    options.set_write_buffer_manager(memory.write_buffers)
    # Bounds what is replayed at the next open.
    options.set_max_total_wal_size(memory.settings.max_wal_mib * _MIB)
    options.set_max_background_jobs(2)
    # A follower keeps every file open: the writer may delete one that it still reads.
    options.set_max_open_files(-1 if follows else memory.settings.max_open_files)
    # The manifest keeps the boundary keys of files that are gone, and those name users: write it anew each time.
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
        # Most heads that are looked for are not in the memtable, and a look into its skip list takes a microsecond.
        # This is some 20 bits a key; RocksDB allocates it with the memtable, full or not. And a memtable of half the
        # size stays nearer to the processor: 5 to 8 % more cold appends.
        options.set_write_buffer_size(8 * _MIB)
        options.set_memtable_prefix_bloom_ratio(0.01)
        options.set_memtable_whole_key_filtering(True)
        # A head and its segments are overwritten again and again, and a read steps over their older versions: going on
        # from one to the next is quicker than looking for the key's end anew, as RocksDB would after eight.
        options.set_max_sequential_skip_in_iterations(32)
        options.set_compression_type(DBCompressionType.none())
        options.set_bottommost_compression_type(DBCompressionType.zstd())
    else:
        # Chunks are compressed already.
        options.set_compression_type(DBCompressionType.none())
    options.set_block_based_table_factory(blocks)
    return options


def compact_range(family: Rdict, start: bytes | None = None, end: bytes | None = None) -> None:
    """Compact the keys from `start` to `end`, all without them; other threads run meanwhile."""
    options = CompactOptions()
    # Without force a file that only moves down is not rewritten, and stays uncompressed.
    options.set_bottommost_level_compaction(BottommostLevelCompaction.force())
    family.compact_range(start, end, options)


def keys_between(family: Rdict, start: bytes, end: bytes) -> list[bytes]:
    """Return the keys from `start` to below `end`, ascending.

    The iterator goes with the call: one that the traceback of an error held would keep the files locked.
    """
    found: list[bytes] = []
    iterator = family.iter()
    iterator.seek(start)
    while iterator.valid() and iterator.key() < end:
        found.append(iterator.key())
        iterator.next()
    return found


def get_many(family: Rdict, wanted: list[bytes]) -> list[bytes | None]:
    """Return the value of each key, None where it has none; other threads run meanwhile."""
    found: list[bytes | None] = family.get([*wanted]) or []
    return found
