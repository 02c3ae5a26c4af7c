"""The state of a node's partitions, read from its directory beside it."""

from collections.abc import Iterator
from contextlib import contextmanager

from lifeline.config import Settings
from lifeline.paths import partition_dir, partitions_in
from store.memory import SharedMemory
from store.partition import PartitionStore
from store.state import State


@contextmanager
def opened(settings: Settings) -> Iterator[list[PartitionStore]]:
    """Open every partition read-only."""
    memory = SharedMemory(settings.store)
    stores = [
        PartitionStore.open(
            partition_dir(settings.node.data_dir, number),
            partition=number,
            settings=settings.store,
            memory=memory,
            read_only=True,
        )
        for number in partitions_in(settings.node.data_dir)
    ]
    try:
        yield stores
    finally:
        for store in stores:
            store.close()


def states(settings: Settings) -> dict[int, State]:
    """Return each partition's state."""
    with opened(settings) as stores:
        return {store.partition: store.state for store in stores}
