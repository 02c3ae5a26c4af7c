"""Settings written for a child process are the settings it loads."""

from pathlib import Path

import pytest

from lifeline.config import Settings, load_settings
from lifeline.core.errors import NodeProcessError
from lifeline.dev.node_process import NodeProcess, settings_for, write_settings
from lifeline.sources.git import FILES_VOCABULARY


def settings_of(tmp_path: Path) -> Settings:
    return settings_for("127.0.0.1:1", tmp_path, FILES_VOCABULARY, suffix="-x", flags={"store.max_explicit": 7})


def test_written_settings_read_back_the_same(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    write_settings(tmp_path / "written.toml", settings)
    assert load_settings(tmp_path / "written.toml").settings == settings
    assert settings.kafka.actions_topic == "actions-x"
    assert settings.store.max_explicit == 7
    assert settings.vocabulary == FILES_VOCABULARY


@pytest.mark.slow
def test_a_node_that_ends_says_why(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    quick = settings.kafka.model_copy(update={"connect_timeout_ms": 200})
    with NodeProcess(settings.model_copy(update={"kafka": quick}), tmp_path) as node:
        node.start()
        with pytest.raises(NodeProcessError, match=r"(?s)the node ended with 1.*does not answer"):
            node.wait_ready(60)


def test_a_node_that_was_not_started_says_so(tmp_path: Path) -> None:
    with pytest.raises(NodeProcessError, match="has not been started"):
        NodeProcess(settings_of(tmp_path), tmp_path).stop()
