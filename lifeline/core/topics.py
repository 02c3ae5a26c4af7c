"""Topics: their required configuration, their creation, and the comparison of existing ones with it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, NamedTuple
from uuid import UUID

import structlog
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import TopicAlreadyExistsError, for_code

from lifeline.core.kafka_admin import open_admin
from lifeline.core.kafka_errors import StreamError, TopicMismatchError
from lifeline.core.kafka_settings import KafkaSettings

_MIB = 1 << 20
_DAY_MS = 86_400_000
_TIMESTAMP_TYPE = "message.timestamp.type"
_LOG_TIME = "LogAppendTime"
# Kafka must accept records larger than an action may be, so that nodes can dead-letter them with a reason.
MAX_RECORD_BYTES = 4 * _MIB

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class TopicPlan:
    """The required configuration of a topic."""

    name: str
    partitions: int
    replication_factor: int
    configs: Mapping[str, str] = field(default_factory=dict)
    is_keyed: bool = False
    """Whether records are placed by key: another number of partitions would then misplace them."""
    may_have_more: bool = False
    """Whether a keyed topic may have more partitions: those are not used."""
    requires_log_time: bool = False
    """Whether ages are measured by the records' timestamps, which the broker must then set."""


class TopicState(StrEnum):
    """How a topic compares with its plan."""

    CREATED = "created"
    PRESENT = "present"
    DIFFERS = "differs"
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class TopicReport:
    """One topic of the cluster, compared with its plan."""

    plan: TopicPlan
    state: TopicState
    differences: tuple[str, ...] = ()
    """Sentences like ``partitions is 6, not 4``."""
    advice: str = ""
    """What to do if nodes must not use the topic as it is; empty otherwise."""
    topic_id: str = ""
    """Differs from the id of a later topic with the same name; empty if the cluster reports none."""

    @property
    def is_unusable(self) -> bool:
        """Whether nodes must not use the topic as it is."""
        return bool(self.advice)

    def check(self) -> None:
        """Raise TopicMismatchError if nodes must not use the topic as it is."""
        if self.is_unusable:
            raise TopicMismatchError(f"topic {self.plan.name}: {'; '.join(self.differences)}. {self.advice}")


class _ExistingTopic(NamedTuple):
    """A topic that exists."""

    partitions: int
    replication_factor: int
    configs: dict[str, str]
    topic_id: str


def plan_topics(settings: KafkaSettings, *, requires_log_time: bool = False) -> tuple[TopicPlan, TopicPlan, TopicPlan]:
    """Return the plans of the actions topic, the items topic and the dead-letter topic.

    Set `requires_log_time` if the store has a maximum age: the broker must then set the timestamps of actions.
    """
    actions = TopicPlan(
        settings.actions_topic,
        settings.partitions,
        settings.replication_factor,
        {
            "cleanup.policy": "delete",
            "retention.ms": "-1",
            "retention.bytes": "-1",
            # With the broker's timestamps every replay decides alike which event times are in the future.
            _TIMESTAMP_TYPE: _LOG_TIME,
            "max.message.bytes": str(MAX_RECORD_BYTES),
        },
        is_keyed=True,
        requires_log_time=requires_log_time,
    )
    items = TopicPlan(
        settings.items_topic,
        settings.items_partitions,
        settings.replication_factor,
        {
            "cleanup.policy": "compact",
            "min.cleanable.dirty.ratio": "0.1",
            # A node that was away for less than a week still learns of what was forgotten meanwhile.
            "delete.retention.ms": str(7 * _DAY_MS),
        },
    )
    dead_letters = TopicPlan(
        settings.dead_letter_topic,
        settings.partitions,
        settings.replication_factor,
        {
            "cleanup.policy": "delete",
            "retention.ms": str(settings.dead_letter_retention_days * _DAY_MS),
            "retention.bytes": "-1",
            # Kafka removes whole segments: a letter goes at most so much later.
            "segment.ms": str(_DAY_MS),
            # Retention counts from arrival: a producer's timestamp could keep a letter forever, or delete it at once.
            _TIMESTAMP_TYPE: _LOG_TIME,
            # Space for the headers that give the reason.
            "max.message.bytes": str(MAX_RECORD_BYTES + _MIB),
        },
        is_keyed=True,
        may_have_more=True,
    )
    return actions, items, dead_letters


def create_topics(
    settings: KafkaSettings, *, requires_log_time: bool = False, has_grown: bool = False
) -> tuple[TopicReport, ...]:
    """Create the topics that do not exist, and report on all; an existing topic is never changed. Idempotent.

    With `has_grown` the actions topic may have more partitions than planned. For `requires_log_time` see `plan_topics`.
    Raises ClusterUnreachableError, and StreamError if the cluster refuses a topic.
    """
    actions, *others = plan_topics(settings, requires_log_time=requires_log_time)
    plans = (replace(actions, may_have_more=has_grown), *others)
    with open_admin(settings) as admin:
        existing = _describe(admin, plans)
        created = {plan.name for plan in plans if plan.name not in existing and _create(admin, plan)}
        admin.wait_for_topics([plan.name for plan in plans], timeout_ms=settings.request_timeout_ms)
        current = _describe(admin, plans)
    return tuple(_report(plan, current, created) for plan in plans)


def ensure_topics(
    settings: KafkaSettings, *, requires_log_time: bool, has_grown: bool = False
) -> tuple[TopicReport, ...]:
    """Call `create_topics`, and raise TopicMismatchError if a topic must not be used as it is."""
    reports = create_topics(settings, requires_log_time=requires_log_time, has_grown=has_grown)
    for report in reports:
        report.check()
        if report.differences:
            _log.warning("topic differs", topic=report.plan.name, differences=list(report.differences))
    return reports


def check_log_time(settings: KafkaSettings) -> None:
    """Raise TopicMismatchError unless the broker sets the timestamps of the actions topic, by which ages are measured.

    A topic that does not exist passes the check. Raises ClusterUnreachableError, StreamError.
    """
    plan, *_ = plan_topics(settings, requires_log_time=True)
    with open_admin(settings) as admin:
        existing = _describe(admin, [plan])
    if existing:
        _report(plan, existing, frozenset()).check()


def ensure_side_topic(settings: KafkaSettings, name: str) -> None:
    """Create a side topic unless it exists; an existing topic is used as it is.

    It has as many partitions as the actions topic, so that a user has the same partition in both. Raises
    ClusterUnreachableError, StreamError.
    """
    configs = {
        "cleanup.policy": "delete",
        "retention.ms": str(settings.side_retention_days * _DAY_MS),
        "segment.ms": str(_DAY_MS),
        "max.message.bytes": str(MAX_RECORD_BYTES),
    }
    plan = TopicPlan(name, settings.partitions, settings.replication_factor, configs)
    with open_admin(settings) as admin:
        if not _describe(admin, [plan]):
            _create(admin, plan)
            admin.wait_for_topics([name], timeout_ms=settings.request_timeout_ms)


def topic_id(settings: KafkaSettings, name: str) -> str:
    """Return the id of a topic; empty if it does not exist or the cluster reports no id.

    Raises ClusterUnreachableError, StreamError.
    """
    with open_admin(settings) as admin:
        existing = _describe(admin, [TopicPlan(name, 0, 0)]).get(name)
    return "" if existing is None else existing.topic_id


def actions_topic_partitions(settings: KafkaSettings) -> int:
    """Return how many partitions the actions topic has; 0 if it does not exist.

    Raises ClusterUnreachableError, StreamError.
    """
    plan, *_ = plan_topics(settings)
    with open_admin(settings) as admin:
        existing = _describe(admin, [plan]).get(plan.name)
    return 0 if existing is None else existing.partitions


def retentions_ms(settings: KafkaSettings) -> dict[str, int | None]:
    """Return the current retention of each topic with user data, in milliseconds; None for unlimited.

    Kafka deletes whole segments, so a record may stay up to ``segment.ms`` longer. Missing topics are left out. Raises
    ClusterUnreachableError, StreamError.
    """
    actions, _, dead_letters = plan_topics(settings)
    side_topics = [TopicPlan(name, 0, 0) for name in (settings.selections_topic, settings.exposures_topic)]
    with open_admin(settings) as admin:
        existing = _describe(admin, [actions, dead_letters, *side_topics])
    retention = {name: int(topic.configs.get("retention.ms") or -1) for name, topic in existing.items()}
    return {name: milliseconds if milliseconds >= 0 else None for name, milliseconds in retention.items()}


def delete_topics(settings: KafkaSettings) -> None:
    """Delete the three topics with all their records; missing topics are ignored.

    For topics that a demo or a benchmark created on a shared cluster. Raises ClusterUnreachableError, StreamError.
    """
    plans = plan_topics(settings)
    with open_admin(settings) as admin:
        existing = _describe(admin, plans)
        if existing:
            admin.delete_topics(sorted(existing))


def _create(admin: Any, plan: TopicPlan) -> bool:  # noqa: ANN401 - the library ships no types
    """Create a topic; return False if another process has created it."""
    response = admin.create_topics(
        {
            plan.name: {
                "num_partitions": plan.partitions,
                "replication_factor": plan.replication_factor,
                "configs": dict(plan.configs),
            }
        },
        raise_errors=False,
    )
    (topic,) = response["topics"]
    if topic["error_code"] == TopicAlreadyExistsError.errno:
        return False
    if topic["error_code"]:
        why = topic.get("error_message") or for_code(topic["error_code"]).__name__
        raise StreamError(
            f"topic {plan.name} cannot be created ({why}): correct the kafka settings, or create it by hand"
        )
    return True


def _describe(admin: Any, plans: Sequence[TopicPlan]) -> dict[str, _ExistingTopic]:  # noqa: ANN401
    """Return the existing topics by name."""
    names = [plan.name for plan in plans]
    topics = [topic for topic in admin.describe_topics(names) if topic["error_code"] == 0]
    if not topics:
        return {}
    configs = admin.describe_configs(
        [ConfigResource(ConfigResourceType.TOPIC, topic["name"]) for topic in topics], config_filter="all"
    )["topic"]
    return {
        topic["name"]: _ExistingTopic(
            len(topic["partitions"]),
            min((len(partition["replica_nodes"]) for partition in topic["partitions"]), default=0),
            {key: value["value"] for key, value in configs[topic["name"]].items()},
            _topic_id(topic.get("topic_id")),
        )
        for topic in topics
    }


def _report(plan: TopicPlan, current: Mapping[str, _ExistingTopic], created: frozenset[str] | set[str]) -> TopicReport:
    if plan.name not in current:
        return TopicReport(plan, TopicState.MISSING, ("it does not exist",), "Create it with `lifeline topics create`")
    partitions, replicas, configs, topic_id = current[plan.name]
    pairs = {"partitions": (str(partitions), str(plan.partitions))}
    pairs["replication factor"] = (str(replicas), str(plan.replication_factor))
    pairs |= {key: (str(configs.get(key)), required) for key, required in plan.configs.items()}
    differences = tuple(
        f"{name} is {actual}, not {required}" for name, (actual, required) in pairs.items() if actual != required
    )
    advice = []
    if plan.is_keyed and (partitions < plan.partitions or (partitions > plan.partitions and not plan.may_have_more)):
        advice.append(
            f"Add partitions to it (kafka-topics.sh --alter --topic {plan.name} --partitions {plan.partitions})"
            if plan.may_have_more
            else f"Set kafka.partitions to {partitions} if it has had as many since its first record (users' "
            "partitions depend on the number), or name another topic in kafka.actions_topic"
        )
    if plan.requires_log_time and configs.get(_TIMESTAMP_TYPE) != _LOG_TIME:
        advice.append(
            "A producer could move the watermark and expire all users' events: let the broker set timestamps "
            "(kafka-configs.sh --alter "
            f"--topic {plan.name} --add-config {_TIMESTAMP_TYPE}={_LOG_TIME}), or set neither "
            "store.max_explicit_age_days nor store.max_impression_age_days"
        )
    state = TopicState.CREATED if plan.name in created else TopicState.PRESENT
    return TopicReport(
        plan,
        TopicState.DIFFERS if differences else state,
        differences,
        ". ".join(advice),
        topic_id,
    )


def _topic_id(value: object) -> str:
    return "" if value is None or value == UUID(int=0) else str(value)
