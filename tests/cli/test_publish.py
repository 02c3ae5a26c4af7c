"""`lifeline produce` and `erase` with user ids that a terminal or a library could take for more than text."""

import csv
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from lifeline.cli import app
from lifeline.core.kafka_settings import KafkaSettings
from lifeline.core.topics import create_topics

USERS = ("[/x]", "[red]bob[/red]", ":key:", "a\x1b[31m\nb", "-eve")


@pytest.fixture
def topics(kafka_settings: KafkaSettings, monkeypatch: pytest.MonkeyPatch) -> KafkaSettings:
    create_topics(kafka_settings)
    for name in ("bootstrap_servers", "actions_topic", "items_topic"):
        monkeypatch.setenv(f"LIFELINE_KAFKA__{name.upper()}", getattr(kafka_settings, name))
    return kafka_settings


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


@pytest.mark.usefixtures("topics")
def test_ids_of_users_are_shown_as_they_are_after_they_are_published(tmp_path: Path) -> None:
    path = tmp_path / "actions.csv"
    for user, hint in zip(USERS, ("'[/x]'", "'[red]bob[/red]'", ":key:", r"$'a\x1b[31m\x0ab'", "-- -eve"), strict=True):
        with path.open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["user_id", "item_id", "timestamp_ms", "action_type"])
            rows.writerow([user, 7, 1_700_000_000_000, "click"])
        done = run("produce", str(path))
        assert done.exit_code == 0, done.output
        assert done.stdout.splitlines()[-1] == f"the longest history: lifeline get {hint}"
        assert json.loads(run("produce", str(path), "--json").stdout)["busiest_user"] == user
        erased = run("erase", "--yes", "--", user)
        assert erased.exit_code == 0, erased.output
        assert erased.stdout.startswith(f"erasure of {user!r} acknowledged: partition ")
