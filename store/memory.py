"""The memory and the open files that all partitions of a process share.

One block cache, one write-buffer budget inside it, one head cache, one limit on item ids, and one budget of files.
"""

from rocksdict import Cache, WriteBufferManager

from lifeline.store.head_cache import HeadCache
from lifeline.store.item_budget import ItemBudget
from lifeline.store.open_files import FileBudget
from lifeline.store.settings import StoreSettings

_MIB = 1 << 20


class SharedMemory:
    """Create one instance in each process, and pass it to every partition."""

    def __init__(self, settings: StoreSettings, files: FileBudget | None = None) -> None:
        """Without `files`, one partition is open at a time. Raises OpenFilesError."""
        self.files = files or FileBudget.of(1)
        self.cache = Cache(settings.block_cache_mib * _MIB)
        # Never allow_stall: a stalled write holds the GIL, and the flush that would end the stall needs it.
        self.write_buffers = WriteBufferManager.new_write_buffer_manager_with_cache(
            settings.write_buffer_mib * _MIB, False, self.cache
        )
        self.heads = HeadCache(int(settings.head_cache_mib * _MIB))
        self.items = ItemBudget(settings.max_items)
        self.settings = settings
