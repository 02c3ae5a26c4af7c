import time

import pytest
from kafka import KafkaAdminClient

from lifeline.core.kafka_errors import ClusterUnreachableError, TopicMismatchError
from lifeline.core.kafka_settings import KafkaSettings
from lifeline.core.topics import (
    TopicState,
    actions_topic_partitions,
    create_topics,
    delete_topics,
    ensure_topics,
    plan_topics,
    topic_id,
)
from tests.support.action_topics import add_partitions

pytestmark = pytest.mark.kafka


def test_topics_are_created_once_and_then_found_as_planned(kafka_settings: KafkaSettings) -> None:
    first = create_topics(kafka_settings)
    assert [(report.plan.name, report.state) for report in first] == [
        (kafka_settings.actions_topic, TopicState.CREATED),
        (kafka_settings.items_topic, TopicState.CREATED),
        (kafka_settings.dead_letter_topic, TopicState.CREATED),
    ]
    again = ensure_topics(kafka_settings, requires_log_time=False)
    assert {report.state for report in again} == {TopicState.PRESENT}
    assert not any(report.differences for report in again)
    ids = [report.topic_id for report in again]
    assert len(set(ids)) == 3
    assert ids == [report.topic_id for report in first]
    assert topic_id(kafka_settings, kafka_settings.actions_topic) == ids[0]


def test_a_topic_made_anew_has_another_id(kafka_settings: KafkaSettings) -> None:
    assert topic_id(kafka_settings, kafka_settings.actions_topic) == ""
    create_topics(kafka_settings)
    before = topic_id(kafka_settings, kafka_settings.actions_topic)
    delete_topics(kafka_settings)
    deadline = time.monotonic() + 60
    while create_topics(kafka_settings)[0].state is not TopicState.CREATED:
        assert time.monotonic() < deadline
    assert topic_id(kafka_settings, kafka_settings.actions_topic) not in {"", before}


def test_a_missing_topic_is_created_beside_those_that_exist(kafka_settings: KafkaSettings) -> None:
    create_topics(kafka_settings)
    renamed = kafka_settings.model_copy(update={"items_topic": kafka_settings.items_topic + "-2"})
    assert [report.state for report in ensure_topics(renamed, requires_log_time=False)] == [
        TopicState.PRESENT,
        TopicState.CREATED,
        TopicState.PRESENT,
    ]


def test_an_existing_topic_is_reported_and_not_changed(kafka_settings: KafkaSettings) -> None:
    admin = KafkaAdminClient(bootstrap_servers=kafka_settings.bootstrap_servers)
    try:
        admin.create_topics(
            {
                kafka_settings.actions_topic: {
                    "num_partitions": 2,
                    "replication_factor": 1,
                    "configs": {"retention.ms": "60000"},
                }
            }
        )
    finally:
        admin.close()
    report = create_topics(kafka_settings)[0]
    assert report.state is TopicState.DIFFERS
    assert report.is_unusable
    assert "partitions is 2, not 4" in report.differences
    assert "retention.ms is 60000, not -1" in report.differences
    with pytest.raises(TopicMismatchError, match=r"partitions is 2, not 4.*Set kafka\.partitions"):
        ensure_topics(kafka_settings, requires_log_time=False)
    reports = ensure_topics(
        kafka_settings.model_copy(update={"partitions": 2, "dead_letter_suffix": "-dead"}), requires_log_time=False
    )
    assert not any(each.is_unusable for each in reports)


def test_a_topic_that_was_given_more_partitions_is_refused_with_advice_that_can_be_followed(
    kafka_settings: KafkaSettings,
) -> None:
    create_topics(kafka_settings)
    add_partitions(kafka_settings, 6)
    assert actions_topic_partitions(kafka_settings) == 6
    advice = r"partitions is 6, not 4.*Set kafka\.partitions to 6 if it has had as many since its first record"
    with pytest.raises(TopicMismatchError, match=advice):
        ensure_topics(kafka_settings, requires_log_time=False)
    # The other topic of the two that must agree.
    with pytest.raises(
        TopicMismatchError, match=r"-dlq: partitions is 4, not 6.*--alter --topic .*-dlq --partitions 6"
    ):
        ensure_topics(kafka_settings.model_copy(update={"partitions": 6}), requires_log_time=False)
    actions, *others = ensure_topics(kafka_settings, requires_log_time=False, has_grown=True)
    assert actions.differences == ("partitions is 6, not 4",)
    assert not any(report.differences for report in others)


def test_the_dead_letters_have_the_partitions_of_the_actions() -> None:
    actions, items, dead_letters = plan_topics(KafkaSettings(partitions=7, items_partitions=3))
    assert (actions.partitions, items.partitions, dead_letters.partitions) == (7, 3, 7)
    assert int(dead_letters.configs["max.message.bytes"]) > int(actions.configs["max.message.bytes"])


def test_dead_letters_are_kept_for_so_long_by_the_time_at_which_they_came(kafka_settings: KafkaSettings) -> None:
    create_topics(kafka_settings)
    *_, differing = create_topics(kafka_settings.model_copy(update={"dead_letter_retention_days": 3}))
    assert (differing.state, differing.is_unusable) == (TopicState.DIFFERS, False)
    assert differing.differences == ("retention.ms is 2592000000, not 259200000",)
    # By a record's own time, which may be anything, a letter would go at once or never.
    assert differing.plan.configs["message.timestamp.type"] == "LogAppendTime"


def test_a_cluster_that_is_not_there() -> None:
    settings = KafkaSettings(bootstrap_servers="127.0.0.1:1", connect_timeout_ms=300)
    with pytest.raises(ClusterUnreachableError, match=r"127\.0\.0\.1:1 does not answer.*lifeline broker"):
        create_topics(settings)


def test_topics_that_were_made_for_once_go_again(kafka_settings: KafkaSettings) -> None:
    create_topics(kafka_settings)
    delete_topics(kafka_settings)
    deadline = time.monotonic() + 20
    admin = KafkaAdminClient(bootstrap_servers=kafka_settings.bootstrap_servers)
    try:
        while {plan.name for plan in plan_topics(kafka_settings)} & set(admin.list_topics()):
            assert time.monotonic() < deadline, "the topics are still there"
    finally:
        admin.close()
    delete_topics(kafka_settings)
