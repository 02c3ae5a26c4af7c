"""Opens the embedding table of a data directory, as long as it comes from the items topic that the cluster has now."""

from pathlib import Path

from lifeline.core.kafka_settings import KafkaSettings
from lifeline.core.paths import items_dir
from lifeline.ops.topic_note import ITEMS, TopicIdentity
from lifeline.store.embeddings import EmbeddingTable


def open_item_table(
    data_dir: Path, kafka: KafkaSettings, topic_id: str, *, max_items: int | None = None
) -> EmbeddingTable:
    """Open or create the table for writing. `topic_id` is the id of ``kafka.items_topic``, empty when it is unknown.

    Raises DataDirError when the table comes from an earlier topic of this name, and what `EmbeddingTable.open` raises.
    """
    directory = items_dir(data_dir)
    table = EmbeddingTable.open(directory, max_items=max_items)
    try:
        TopicIdentity(kafka.items_topic, topic_id).check(directory, ITEMS)
    except BaseException:
        table.close()
        raise
    return table
