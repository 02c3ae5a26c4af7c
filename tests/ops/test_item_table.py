"""An embedding table belongs to one items topic: another of the same name is noticed, however many records it has."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import numpy as np
import pytest

from lifeline.config import Settings
from lifeline.core.errors import DataDirError
from lifeline.core.kafka_settings import KafkaSettings
from lifeline.core.paths import items_dir
from lifeline.core.topics import create_topics
from lifeline.core.vocabulary import Vocabulary
from lifeline.dev.node_process import settings_for
from lifeline.learning.topic_copy import update_topic_copy
from lifeline.node.storage import Storage
from lifeline.ops.item_table import open_item_table
from tests.support.items_topic import publish_items, recreate_items_topic


def test_a_table_is_opened_again_for_the_topic_that_it_comes_from(tmp_path: Path) -> None:
    kafka = KafkaSettings()
    for identity in ("id-1", "id-1", ""):
        open_item_table(tmp_path, kafka, identity).close()
    with pytest.raises(DataDirError, match=r"kafka\.items_topic is others"):
        open_item_table(tmp_path, kafka.model_copy(update={"items_topic": "others"}), "id-1")
    with pytest.raises(
        DataDirError, match=r"items with the id id-1, and in this cluster its id is id-2.*set .*items aside"
    ):
        open_item_table(tmp_path, kafka, "id-2")
    # The refused table is closed: the process may go on with another.
    items_dir(tmp_path).rename(tmp_path / "aside")
    open_item_table(tmp_path, kafka, "id-2").close()


@pytest.mark.kafka
async def test_a_topic_with_as_many_records_as_before_is_noticed_at_start(
    kafka_settings: KafkaSettings, tmp_path: Path
) -> None:
    flags = {"kafka.items_topic": kafka_settings.items_topic, "kafka.actions_topic": kafka_settings.actions_topic}
    settings = settings_for(kafka_settings.bootstrap_servers, tmp_path, Vocabulary(), flags=flags)
    create_topics(settings.kafka)
    publish_items(settings.kafka, 50, fill=1)
    await asyncio.to_thread(copy, settings, tmp_path / "copy")
    async with AsyncExitStack() as stack:
        storage = await Storage.open(settings, stack)
        row = np.ones((1, 32), np.int8)
        storage.embeddings.apply(np.array([7], np.uint64), row, np.ones(1, np.uint32), partition=0, offset=3)
    recreate_items_topic(settings.kafka)
    publish_items(settings.kafka, 80, fill=2)
    with pytest.raises(DataDirError, match="the topic was created again"):
        async with AsyncExitStack() as stack:
            await Storage.open(settings, stack)
    with pytest.raises(DataDirError, match="the topic was created again"):
        await asyncio.to_thread(copy, settings, tmp_path / "copy")


def copy(settings: Settings, into: Path) -> None:
    """Copy the topics, as training does."""
    update_topic_copy(settings, into, processes=1, flags=(), progress=lambda _done, _total: None)
