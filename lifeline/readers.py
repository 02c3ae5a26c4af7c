"""Readers of every user whose partition is in a data directory, for those who join what a topic says with histories."""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

from lifeline.config import Settings
from lifeline.paths import items_dir
from lifeline.stored import opened
from store.embeddings import EmbeddingFollower
from store.reader import SequenceReader
from stream.partitioner import partition_of


@contextmanager
def readers_of(settings: Settings) -> Iterator[Callable[[str], SequenceReader | None]]:
    """Give a function from a user to its reader, None where the partition is not there; raises StoreError."""
    with opened(settings) as stores, closing(EmbeddingFollower.open(items_dir(settings.node.data_dir))) as embeddings:
        readers = {store.partition: SequenceReader(store, embeddings) for store in stores}
        yield lambda user_id: readers.get(partition_of(user_id.encode(), settings.kafka.partitions))
