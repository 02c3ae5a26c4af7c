"""Replay of a log that falls silent; what a replay gives is tested where logs are compared."""

import asyncio
import socket
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiokafka import TopicPartition
from aiokafka.cluster import ClusterMetadata

from lifeline.core.kafka_errors import ClusterUnreachableError, StalledReadError
from lifeline.core.kafka_settings import KafkaSettings
from lifeline.core.vocabulary import Vocabulary
from lifeline.store.partition import PartitionStore
from lifeline.stream import replay as module
from lifeline.stream.decode import Rules
from lifeline.stream.replay import replay
from lifeline.stream.settings import UpdaterSettings
from tests.support.stream_harness import RecordingStore


class SilentConsumer:
    """Knows what the log holds, and gets none of it."""

    _client = SimpleNamespace(cluster=ClusterMetadata())

    def __init__(self, **_: Any) -> None:
        self.at = 0

    async def start(self) -> None: ...

    async def stop(self) -> None:
        # As the client does when its fetch is under way.
        raise asyncio.CancelledError

    def assign(self, partitions: list[TopicPartition]) -> None: ...

    async def beginning_offsets(self, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(partitions, 0)

    async def end_offsets(self, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(partitions, 10)

    def seek(self, _: TopicPartition, offset: int) -> None:
        self.at = offset

    async def position(self, _: TopicPartition) -> int:
        return self.at

    async def getmany(self, **_: Any) -> dict[TopicPartition, list[Any]]:
        await asyncio.sleep(0.01)
        return {}


async def test_a_cluster_that_goes_away_ends_the_replay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LogConsumer", SilentConsumer)
    store = cast("PartitionStore", RecordingStore(0))
    rules = Rules.of(Vocabulary(), 4, UpdaterSettings())
    with pytest.raises(ClusterUnreachableError):
        async with asyncio.timeout(20):
            await replay(KafkaSettings(request_timeout_ms=1_000, connect_timeout_ms=0), rules, store, until=9)


async def test_a_cluster_that_answers_and_sends_nothing_is_not_called_unreachable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "LogConsumer", SilentConsumer)
    store = cast("PartitionStore", RecordingStore(0))
    rules = Rules.of(Vocabulary(), 4, UpdaterSettings())
    with socket.create_server(("127.0.0.1", 0)) as server:
        kafka = KafkaSettings(bootstrap_servers=f"127.0.0.1:{server.getsockname()[1]}", request_timeout_ms=1_000)
        with pytest.raises(StalledReadError, match="actions 0 has records from offset 0 on, and the cluster sent none"):
            async with asyncio.timeout(20):
                await replay(kafka, rules, store, until=9)
