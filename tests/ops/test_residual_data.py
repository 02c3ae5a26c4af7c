"""What `lifeline erase` says that it does not reach."""

import json

import pytest
from typer.testing import CliRunner

from lifeline.cli import app
from lifeline.config import Settings
from lifeline.core.kafka_settings import KafkaSettings
from lifeline.core.topics import create_topics, ensure_side_topic
from lifeline.ops.residual_data import residual_copies
from lifeline.store.snapshots.settings import SnapshotSettings


@pytest.mark.kafka
def test_an_erasure_says_what_it_does_not_reach_and_until_when(kafka_settings: KafkaSettings) -> None:
    kafka = kafka_settings.model_copy(update={"exposures_topic": f"{kafka_settings.actions_topic}-exposures"})
    create_topics(kafka.model_copy(update={"dead_letter_retention_days": 9}))
    ensure_side_topic(kafka.model_copy(update={"side_retention_days": 4}), kafka.exposures_topic)
    flags = {
        "LIFELINE_KAFKA__BOOTSTRAP_SERVERS": kafka.bootstrap_servers,
        "LIFELINE_KAFKA__ACTIONS_TOPIC": kafka.actions_topic,
        "LIFELINE_KAFKA__EXPOSURES_TOPIC": kafka.exposures_topic,
        "LIFELINE_KAFKA__SELECTIONS_TOPIC": f"{kafka.actions_topic}-never-made",
        "LIFELINE_SNAPSHOT__URL": "s3://bucket/path",
        "COLUMNS": "200",
    }
    done = CliRunner().invoke(app, ["erase", "ann", "--yes", "--json"], env=flags)
    assert done.exit_code == 0, done.output
    answer = json.loads(done.stdout)
    assert (answer["user"], answer["offset"]) == ("ann", 0)
    until = {leftover["place"]: leftover["until"] for leftover in answer["leftovers"]}
    # The topics as they are, and not as the configuration would make them.
    assert until[f"topic {kafka.actions_topic}"] == "for ever: its retention.ms is -1"
    assert until[f"topic {kafka.dead_letter_topic}"] == "9 days after each record, and a segment more"
    assert until[f"topic {kafka.exposures_topic}"] == "4 days after each record, and a segment more"
    assert until["snapshots at s3://bucket/path made before"] == "3 newer ones of the partition have been made"
    assert not any("never-made" in place for place in until)
    said = CliRunner().invoke(app, ["erase", "ann", "--yes"], env=flags)
    assert "Not erased by it" in said.stdout
    assert "ids of items, without user and time" in said.stdout


def test_without_an_answer_of_the_cluster_the_topics_are_named_all_the_same() -> None:
    kafka = KafkaSettings(bootstrap_servers="127.0.0.1:1", connect_timeout_ms=0)
    found = residual_copies(Settings(kafka=kafka, snapshot=SnapshotSettings(url=None)))
    topics = [leftover for leftover in found if leftover.place.startswith("topic ")]
    assert [leftover.place for leftover in topics] == [
        f"topic {name}" for name in ("actions", "actions-dlq", "selections", "exposures")
    ]
    assert all(leftover.until.startswith("not known: Kafka at 127.0.0.1:1 does not answer") for leftover in topics)
    assert not any("snapshots" in leftover.place for leftover in found)
