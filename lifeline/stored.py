"""A node's partitions, opened read-only beside it."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from lifeline.config import Settings
from lifeline.paths import partition_dir, partitions_in
from store.errors import StoreError
from store.memory import SharedMemory
from store.partition import PartitionStore


@contextmanager
def opened(settings: Settings) -> Iterator[list[PartitionStore]]:
    """Open every partition of the data directory as it is now, ascending; raises StoreError when there is none."""
    numbers = partitions_in(settings.node.data_dir)
    if not numbers:
        raise StoreError(f"{settings.node.data_dir} holds no partition: name the node's directory with --data-dir")
    memory = SharedMemory(settings.store)
    with ExitStack() as stack:
        stores = []
        for number in numbers:
            path = partition_dir(settings.node.data_dir, number)
            store = PartitionStore.open(path, partition=number, settings=settings.store, memory=memory, read_only=True)
            stack.callback(store.close)
            stores.append(store)
        yield stores
