"""Reading a data directory from another process than its node, also while the node runs."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager

from lifeline.config import Settings
from lifeline.core.partitioner import partition_of
from lifeline.core.paths import items_dir, partition_dir, partitions_in
from lifeline.ops.topic_note import with_partitions_of
from lifeline.store.embeddings import SecondaryEmbeddings
from lifeline.store.errors import StoreError
from lifeline.store.memory import SharedMemory
from lifeline.store.open_files import check_tables
from lifeline.store.reader import SequenceReader
from lifeline.store.secondary_partition import SecondaryPartition


@contextmanager
def open_partitions(settings: Settings) -> Iterator[list[SecondaryPartition]]:
    """Open every partition of the data directory, ascending; raises StoreError if there is none, OpenFilesError."""
    numbers = partitions_in(settings.node.data_dir)
    if not numbers:
        raise StoreError(f"{settings.node.data_dir} holds no partition: name the node's directory with --data-dir")
    paths = {number: partition_dir(settings.node.data_dir, number) for number in numbers}
    check_tables(list(paths.values()))
    memory = SharedMemory(settings.store)
    with ExitStack() as stack:
        partitions = []
        for number, path in paths.items():
            partition = SecondaryPartition.open(path, partition=number, memory=memory)
            stack.callback(partition.close)
            partitions.append(partition)
        yield partitions


@contextmanager
def open_readers(settings: Settings) -> Iterator[list[tuple[SecondaryPartition, SequenceReader]]]:
    """Open every partition of the data directory with a reader of its users; raises StoreError."""
    with (
        open_partitions(settings) as partitions,
        closing(SecondaryEmbeddings.open(items_dir(settings.node.data_dir))) as embeddings,
    ):
        yield [(partition, SequenceReader(partition, embeddings)) for partition in partitions]


@contextmanager
def open_user_readers(settings: Settings) -> Iterator[Callable[[str], SequenceReader | None]]:
    """Yield a function from a user id to a reader, or to None if the user's partition is missing. Raises StoreError."""
    settings = with_partitions_of(settings, settings.node.data_dir)
    with open_readers(settings) as pairs:
        readers = {partition.partition: reader for partition, reader in pairs}
        yield lambda user_id: readers.get(partition_of(user_id.encode(), settings.kafka.partitions))
