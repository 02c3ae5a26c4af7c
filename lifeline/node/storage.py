"""A node's data on disk: the locked data directory, the embedding table, and access to the stores."""

from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Self

import structlog

from lifeline.config import Settings
from lifeline.core.paths import partition_dir
from lifeline.core.topics import actions_topic_partitions, ensure_topics
from lifeline.node.metrics.node_metrics import NodeMetrics
from lifeline.node.restore import open_or_restore
from lifeline.ops.item_table import open_item_table
from lifeline.ops.topic_note import TopicIdentity, with_partitions_of
from lifeline.rpc.memory_limit import item_limit
from lifeline.store.data_lock import data_dir_lock
from lifeline.store.embeddings import EmbeddingTable
from lifeline.store.memory import SharedMemory
from lifeline.store.open_files import NODE_FILES, FileBudget
from lifeline.store.partition import PartitionStore
from lifeline.store.snapshots.repository import SnapshotRepository
from lifeline.stream.aio import run_abandonable
from lifeline.stream.stores import StoreAccess

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Storage:
    """The node's storage. It is open until the exit stack that `open` got closes."""

    settings: Settings
    memory: SharedMemory
    embeddings: EmbeddingTable
    snapshots: SnapshotRepository | None
    actions_topic: TopicIdentity

    @classmethod
    async def open(cls, settings: Settings, stack: AsyncExitStack) -> Self:
        """Lock the data directory, create missing topics, and open what all partitions share.

        Its `settings` have the number of partitions that the directory was built with, if the topic has more by now.

        Raises OpenFilesError, StoreLockedError, DataDirError, StreamError, StoreError.
        """
        data_dir = settings.node.data_dir
        # The group may give all partitions to this node, when the other nodes are gone.
        files = FileBudget.of(settings.kafka.partitions, NODE_FILES)
        _log.info("open files", limit=files.limit, tables_per_partition=files.tables)
        stack.enter_context(data_dir_lock(data_dir))
        note = TopicIdentity.of(data_dir)
        has_grown = (
            note is not None and await run_abandonable(actions_topic_partitions, settings.kafka) > note.partitions
        )
        if has_grown:
            settings = with_partitions_of(settings, data_dir)
        kafka = settings.kafka
        actions_topic, items_topic, _ = await run_abandonable(
            ensure_topics, kafka, requires_log_time=settings.store.has_ages, has_grown=has_grown
        )
        identity = TopicIdentity(kafka.actions_topic, actions_topic.topic_id, kafka.partitions)
        identity.check(data_dir)
        snapshots = SnapshotRepository.of(settings.snapshot) if settings.snapshot.url else None
        store = settings.store
        if store.max_items is None:
            store = store.model_copy(update={"max_items": item_limit(settings.node.max_memory_mib)})
        embeddings = open_item_table(data_dir, settings.kafka, items_topic.topic_id, max_items=store.max_items)
        stack.callback(embeddings.close)
        return cls(settings, SharedMemory(store, files), embeddings, snapshots, identity)

    def access(self, metrics: NodeMetrics | None) -> StoreAccess[PartitionStore]:
        """Return the functions that open and close the store of a partition."""

        def open_store(number: int) -> PartitionStore:
            return open_or_restore(
                partition_dir(self.settings.node.data_dir, number),
                number,
                settings=self.settings.store,
                memory=self.memory,
                snapshots=self.snapshots,
                topic=self.actions_topic.topic,
                topic_id=self.actions_topic.topic_id,
            )

        def close_store(store: PartitionStore) -> None:
            if metrics is not None:
                metrics.stores.retire(store)
            store.close()

        return StoreAccess(open_store, close_store)
