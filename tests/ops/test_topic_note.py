from pathlib import Path

import pytest

from lifeline.config import Settings
from lifeline.core.errors import DataDirError
from lifeline.core.kafka_settings import KafkaSettings
from lifeline.ops.topic_note import TOPIC_NOTE, TopicIdentity, with_partitions_of

MADE = TopicIdentity("actions", "id-1", 4)


def test_the_first_topic_is_remembered_and_the_same_one_passes(tmp_path: Path) -> None:
    MADE.check(tmp_path)
    MADE.check(tmp_path)
    assert TopicIdentity.read(tmp_path / TOPIC_NOTE) == MADE
    assert [path.name for path in tmp_path.iterdir()] == [TOPIC_NOTE]


@pytest.mark.parametrize(
    ("now", "what"),
    [
        (TopicIdentity("actions", "id-2", 4), "created again, or this is another cluster"),
        (TopicIdentity("actions", "id-1", 8), "was built with 4 partitions, and kafka.partitions is 8: set it to 4"),
        (TopicIdentity("clicks", "id-1", 4), "was built from topic actions, and kafka.actions_topic is clicks"),
    ],
)
def test_another_topic_is_refused(tmp_path: Path, now: TopicIdentity, what: str) -> None:
    MADE.check(tmp_path)
    with pytest.raises(DataDirError, match=what):
        now.check(tmp_path)
    assert TopicIdentity.read(tmp_path / TOPIC_NOTE) == MADE


def test_a_cluster_without_ids_is_told_by_the_name_alone(tmp_path: Path) -> None:
    MADE.check(tmp_path)
    TopicIdentity("actions", "", 4).check(tmp_path)


@pytest.mark.parametrize("damaged", ["", "[]", "{}", '{"topic": "actions"', '{"topic": "actions", "topic_id": "id-1"}'])
def test_a_damaged_note_is_an_error_that_says_what_to_do(tmp_path: Path, damaged: str) -> None:
    (tmp_path / TOPIC_NOTE).write_text(damaged)
    with pytest.raises(DataDirError, match="does not describe the topic"):
        MADE.check(tmp_path)


def test_settings_take_the_number_that_a_directory_was_built_with(tmp_path: Path) -> None:
    settings = Settings(kafka=KafkaSettings(partitions=8))
    assert with_partitions_of(settings, tmp_path) is settings
    MADE.check(tmp_path)
    assert with_partitions_of(settings, tmp_path).kafka == KafkaSettings(partitions=4)
