import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from lifeline.cli import app
from lifeline.core.errors import DataDirError
from lifeline.learning.simulated_world import REQUESTS_FILE, read_settings, write_world
from lifeline.scorer.evaluate.simulator import CANDIDATES, KINDS, Simulator, SimulatorSettings
from lifeline.sources.files import SourceError, open_source
from lifeline.sources.history import TABLE_FILE, TABLE_ITEMS_FILE, VOCABULARY_FILE, demo_history, read_items

SMALL = SimulatorSettings(users=60, topics=16, items_per_topic=32, min_actions=200, max_actions=300)


@pytest.fixture(scope="module")
def simulator() -> Simulator:
    return Simulator(SMALL)


def test_what_is_written_is_what_producers_and_evaluation_read(simulator: Simulator, tmp_path: Path) -> None:
    told: list[int] = []
    written = write_world(simulator, tmp_path, told.append)
    assert told == [50, 60]
    assert read_settings(tmp_path) == SMALL
    users = list(simulator.users())
    actions = list(open_source(tmp_path / TABLE_FILE, simulator.vocabulary))
    assert len(actions) == written.actions == sum(len(user.events.item) for user in users)
    first = [action for action in actions if action.user_id == users[0].user_id]
    events = users[0].events
    assert [action.timestamp_ms for action in first] == events.timestamp_ms.tolist()
    assert [action.item_id for action in first] == simulator.items.item_id[events.item].tolist()
    assert [action.action_type for action in first] == events.action_type.tolist()
    items = read_items(tmp_path / TABLE_ITEMS_FILE)
    assert (items.item_id == simulator.items.item_id).all()
    with np.load(tmp_path / REQUESTS_FILE, allow_pickle=False) as requests:
        assert requests["item_id"].shape == (written.requests, CANDIDATES)
        assert requests["done"].shape == requests["oracle"].shape == (written.requests, CANDIDATES, len(KINDS))
        assert tuple(requests["kinds"]) == KINDS
        assert set(requests["user"].tolist()) == set(range(SMALL.users))


def test_the_same_settings_give_the_same_bytes(simulator: Simulator, tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_world(simulator, tmp_path / name)
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert len(files) == 5
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name


def test_a_world_is_a_history_for_the_demo(simulator: Simulator, tmp_path: Path) -> None:
    written = write_world(simulator, tmp_path)
    history = demo_history(tmp_path)
    assert len(history) == written.actions
    assert history.vocabulary == simulator.vocabulary
    assert (np.diff(history.timestamp_ms) >= 0).all()
    assert len(history.embeddings) == written.items
    user = next(simulator.users())
    rows = np.array(history.user_id) == user.user_id
    np.testing.assert_array_equal(history.timestamp_ms[rows], user.events.timestamp_ms)
    np.testing.assert_array_equal(history.item_id[rows], simulator.items.item_id[user.events.item])
    np.testing.assert_array_equal(history.action_type[rows], user.events.action_type)
    np.testing.assert_array_equal(history.surface[rows], user.events.surface)
    for name in (TABLE_FILE, VOCABULARY_FILE):
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(SourceError, match="create it with `lifeline simulate`"):
            demo_history(tmp_path)
        (tmp_path / name).write_bytes(whole)


def test_nothing_is_overwritten_and_another_directory_is_no_world(simulator: Simulator, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("")
    with pytest.raises(DataDirError, match="is not empty: name a new directory"):
        write_world(simulator, tmp_path)
    with pytest.raises(DataDirError, match="make it with `lifeline simulate"):
        read_settings(tmp_path)


def test_the_command_says_what_it_made(tmp_path: Path) -> None:
    arguments = ["simulate", str(tmp_path / "world"), "--users", "2", "--days", "100", "--seed", "7", "--json"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["users"] == 2
    assert told["requests"] == 24
    settings = read_settings(tmp_path / "world")
    assert (settings.seed, settings.days, settings.train_from_day, settings.test_from_day) == (7, 100, 27, 90)
