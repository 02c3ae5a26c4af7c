"""The whole history, published once to a real broker, and nodes in processes of their own."""

import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from rich.progress import Progress

from lifeline.core.kafka_settings import KafkaSettings
from lifeline.core.topics import create_topics
from lifeline.dev.node_process import NodeProcess, settings_for
from lifeline.ops.publish import publish
from lifeline.sources.history import History, demo_history
from tests.support.once import once

READY_S = 120.0
NodeMaker = Callable[..., NodeProcess]


@pytest.fixture(scope="session")
def history() -> History:
    return demo_history()


@pytest.fixture(scope="session")
def short_history(history: History) -> History:
    """A fifth of the actions: all those of the longest user, and of every eighth other one, in order of arrival.

    For tests to which the number of users says nothing: publishing and applying the whole takes many seconds.
    """
    users = {*history.longest_users(1), *sorted(set(history.user_id))[::8]}
    rows = [row for row, user in enumerate(history.user_id) if user in users]
    return replace(
        history,
        user_id=[history.user_id[row] for row in rows],
        timestamp_ms=history.timestamp_ms[rows],
        item_id=history.item_id[rows],
        action_type=history.action_type[rows],
        surface=history.surface[rows],
    )


@pytest.fixture(scope="session")
def published(bootstrap_servers: str, history: History, tmp_path_factory: pytest.TempPathFactory) -> KafkaSettings:
    """Topics that hold the whole history and its embeddings; nobody adds to them."""

    def topics_named(suffix: str) -> KafkaSettings:
        workdir = tmp_path_factory.mktemp("published")
        return settings_for(bootstrap_servers, workdir, history.vocabulary, suffix=suffix).kafka

    def publish_history() -> str:
        suffix = f"-{uuid.uuid4().hex[:8]}"
        kafka = topics_named(suffix)
        create_topics(kafka)
        publish(kafka, history.source(), history.embeddings, history.vocabulary, silent())
        return suffix

    return topics_named(once(tmp_path_factory, "published", publish_history))


@pytest.fixture
def make_node(tmp_path: Path, history: History) -> Iterator[NodeMaker]:
    """Make nodes over given topics, each with a group and a directory of its own; all are killed in the end."""
    with node_maker(tmp_path, history) as make:
        yield make


@contextmanager
def node_maker(place: Path, history: History) -> Iterator[NodeMaker]:
    """Make nodes in directories of a place."""
    with ExitStack() as stack:

        def make(kafka: KafkaSettings, name: str = "node", **given: object) -> NodeProcess:
            workdir = place / name
            workdir.mkdir()
            mine = {
                "kafka.actions_topic": kafka.actions_topic,
                "kafka.items_topic": kafka.items_topic,
                "kafka.group_id": f"group-{uuid.uuid4().hex[:8]}",
                "kafka.partitions": kafka.partitions,
            }
            flags = {key.replace("__", "."): value for key, value in given.items()}
            settings = settings_for(kafka.bootstrap_servers, workdir, history.vocabulary, flags=mine | flags)
            return stack.enter_context(NodeProcess(settings, workdir))

        yield make


@pytest.fixture
def fresh_topics(kafka_settings: KafkaSettings) -> KafkaSettings:
    """Empty topics of this test's own."""
    create_topics(kafka_settings)
    return kafka_settings


def silent() -> Progress:
    """Return a progress display that shows nothing."""
    return Progress(console=Console(quiet=True), disable=True)
