"""Readers of every user whose partition is in a data directory."""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

from lifeline.config import Settings
from lifeline.paths import items_dir
from lifeline.stored import opened
from store.embeddings import EmbeddingFollower
from store.follower import PartitionFollower
from store.reader import SequenceReader
from stream.partitioner import partition_of


@contextmanager
def stored_readers(settings: Settings) -> Iterator[list[tuple[PartitionFollower, SequenceReader]]]:
    """Open every partition of the data directory with a reader of its users; raises StoreError."""
    with opened(settings) as stores, closing(EmbeddingFollower.open(items_dir(settings.node.data_dir))) as embeddings:
        yield [(store, SequenceReader(store, embeddings)) for store in stores]


@contextmanager
def readers_of(settings: Settings) -> Iterator[Callable[[str], SequenceReader | None]]:
    """Give a function from a user to its reader, None where the partition is not there; raises StoreError."""
    with stored_readers(settings) as found:
        readers = {store.partition: reader for store, reader in found}
        yield lambda user_id: readers.get(partition_of(user_id.encode(), settings.kafka.partitions))
