"""RocksDB's settings, and the memory that all partitions of a process share.

That is one block cache, and one write-buffer budget inside it.
"""

from rocksdict import BlockBasedOptions, Cache, DBCompressionType, Options, Rdict, WriteBufferManager

from store.settings import StoreSettings

_KIB, _MIB = 1 << 10, 1 << 20


class SharedMemory:
    """Made once a process and given to every PartitionStore."""

    def __init__(self, settings: StoreSettings) -> None:
        self.cache = Cache(settings.block_cache_mib * _MIB)
        # Never allow_stall: a stalled write holds the interpreter's lock, and then nothing ever ends.
        self.write_buffers = WriteBufferManager.new_write_buffer_manager_with_cache(
            settings.write_buffer_mib * _MIB, False, self.cache
        )


def database_options(memory: SharedMemory) -> Options:
    """Return the options of one partition's database."""
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.create_missing_column_families(True)
    options.set_write_buffer_manager(memory.write_buffers)
    # Bounds what is replayed at the next open.
    options.set_max_total_wal_size(64 * _MIB)
    options.set_max_background_jobs(2)
    options.set_max_open_files(256)
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
    if name == "rows":
        blocks.set_block_size(16 * _KIB)
        options.set_compression_type(DBCompressionType.none())
        options.set_bottommost_compression_type(DBCompressionType.zstd())
    else:
        # Chunks are compressed already.
        options.set_compression_type(DBCompressionType.none())
    options.set_block_based_table_factory(blocks)
    return options


def get_many(family: Rdict, wanted: list[bytes]) -> list[bytes | None]:
    """Return the value of each key, None where it has none; other threads run meanwhile."""
    found: list[bytes | None] = family.get([*wanted]) or []
    return found
