"""Readers of every user whose partition is in a data directory."""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

from lifeline.config import Settings
from lifeline.core.partitioner import partition_of
from lifeline.core.paths import items_dir
from lifeline.ops.stored import opened
from lifeline.store.embeddings import EmbeddingFollower
from lifeline.store.reader import SequenceReader
from lifeline.store.secondary_partition import SecondaryPartition


@contextmanager
def stored_readers(settings: Settings) -> Iterator[list[tuple[SecondaryPartition, SequenceReader]]]:
    """Open every partition of the data directory with a reader of its users; raises StoreError."""
    with opened(settings) as stores, closing(EmbeddingFollower.open(items_dir(settings.node.data_dir))) as embeddings:
        yield [(store, SequenceReader(store, embeddings)) for store in stores]


@contextmanager
def readers_of(settings: Settings) -> Iterator[Callable[[str], SequenceReader | None]]:
    """Give a function from a user to its reader, None where the partition is not there; raises StoreError."""
    with stored_readers(settings) as found:
        readers = {store.partition: reader for store, reader in found}
        yield lambda user_id: readers.get(partition_of(user_id.encode(), settings.kafka.partitions))
