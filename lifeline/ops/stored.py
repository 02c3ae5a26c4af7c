"""A node's partitions, opened beside it by those who only read."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from lifeline.config import Settings
from lifeline.core.paths import partition_dir, partitions_in
from lifeline.store.errors import StoreError
from lifeline.store.memory import SharedMemory
from lifeline.store.secondary_partition import SecondaryPartition


@contextmanager
def opened(settings: Settings) -> Iterator[list[SecondaryPartition]]:
    """Open every partition of the data directory as it is now, ascending; raises StoreError when there is none."""
    numbers = partitions_in(settings.node.data_dir)
    if not numbers:
        raise StoreError(f"{settings.node.data_dir} holds no partition: name the node's directory with --data-dir")
    memory = SharedMemory(settings.store)
    with ExitStack() as stack:
        stores = []
        for number in numbers:
            path = partition_dir(settings.node.data_dir, number)
            store = SecondaryPartition.open(path, partition=number, memory=memory)
            stack.callback(store.close)
            stores.append(store)
        yield stores
