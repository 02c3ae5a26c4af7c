"""Topics: what they must be, how they are created, and how an existing topic differs."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple
from uuid import UUID

import structlog
from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import KafkaError, TopicAlreadyExistsError, for_code

from lifeline.core.kafka_cluster import check_reachable
from lifeline.core.kafka_errors import ClusterUnreachableError, StreamError, TopicMismatchError
from lifeline.core.kafka_settings import KafkaSettings

_MIB = 1 << 20
_DAY_MS = 86_400_000
_TIMESTAMP_TYPE = "message.timestamp.type"
_LOG_TIME = "LogAppendTime"
# An oversized record has to be able to arrive, or nothing could tell its producer that it was one.
MAX_RECORD_BYTES = 4 * _MIB

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class TopicPlan:
    """The required shape of a topic."""

    name: str
    partitions: int
    replication_factor: int
    configs: Mapping[str, str] = field(default_factory=dict)
    is_keyed: bool = False
    """Whether another number of partitions would send users or dead letters to the wrong place."""
    requires_log_time: bool = False
    """Whether ages are measured by its records' times, which must then be the broker's."""


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
    """What to do when nodes must not use the topic like this; empty otherwise."""
    topic_id: str = ""
    """Tells it from a later topic of the same name; empty when the cluster gives no id."""

    @property
    def is_unusable(self) -> bool:
        """Whether nodes must not use the topic like this."""
        return bool(self.advice)

    def check(self) -> None:
        """Raise TopicMismatchError when nodes must not use the topic like this."""
        if self.is_unusable:
            raise TopicMismatchError(f"topic {self.plan.name}: {'; '.join(self.differences)}. {self.advice}")


class _ExistingTopic(NamedTuple):
    """A topic that exists."""

    partitions: int
    replication_factor: int
    configs: dict[str, str]
    topic_id: str


def plan_topics(settings: KafkaSettings, *, requires_log_time: bool = False) -> tuple[TopicPlan, TopicPlan, TopicPlan]:
    """Return the plans of the actions topic, the items topic and the dead letters of the actions.

    `requires_log_time` says that the store has ages: the actions topic must then take the broker's time.
    """
    actions = TopicPlan(
        settings.actions_topic,
        settings.partitions,
        settings.replication_factor,
        {
            "cleanup.policy": "delete",
            "retention.ms": "-1",
            "retention.bytes": "-1",
            # The log's own clock: what "far in the future" means is then the same on every replay.
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
            # Counted from when a letter came: by its record's time it could be kept for ever, or go at once.
            _TIMESTAMP_TYPE: _LOG_TIME,
            # Room for the headers that say why.
            "max.message.bytes": str(MAX_RECORD_BYTES + _MIB),
        },
        is_keyed=True,
    )
    return actions, items, dead_letters


def create_topics(settings: KafkaSettings, *, requires_log_time: bool = False) -> tuple[TopicReport, ...]:
    """Create the topics that do not exist, and report on all: an existing topic is never changed. Idempotent.

    `requires_log_time` is that of `plan_topics`.
    Raises ClusterUnreachableError, and StreamError when the cluster refuses a topic.
    """
    plans = plan_topics(settings, requires_log_time=requires_log_time)
    with _admin(settings) as admin:
        before = _describe(admin, plans)
        created = {plan.name for plan in plans if plan.name not in before and _create(admin, plan)}
        admin.wait_for_topics([plan.name for plan in plans], timeout_ms=settings.request_timeout_ms)
        now = _describe(admin, plans)
    return tuple(_report(plan, now, created) for plan in plans)


def ensure_topics(settings: KafkaSettings, *, requires_log_time: bool) -> tuple[TopicReport, ...]:
    """Do `create_topics`, and raise TopicMismatchError when one of them must not be used as it is."""
    reports = create_topics(settings, requires_log_time=requires_log_time)
    for report in reports:
        report.check()
        if report.differences:
            _log.warning("topic differs", topic=report.plan.name, differences=list(report.differences))
    return reports


def check_log_time(settings: KafkaSettings) -> None:
    """Raise TopicMismatchError when the actions topic does not take the broker's time, by which ages are measured.

    A topic that does not exist passes. Raises ClusterUnreachableError, StreamError.
    """
    plan, *_ = plan_topics(settings, requires_log_time=True)
    with _admin(settings) as admin:
        existing = _describe(admin, [plan])
    if existing:
        _report(plan, existing, frozenset()).check()


def ensure_side_topic(settings: KafkaSettings, name: str) -> None:
    """Create a topic beside the log, unless it exists; an existing topic is used as it is.

    Its partitions are those of the actions topic, so that a user's records are side by side. Raises
    ClusterUnreachableError, StreamError.
    """
    configs = {
        "cleanup.policy": "delete",
        "retention.ms": str(settings.side_retention_days * _DAY_MS),
        "segment.ms": str(_DAY_MS),
        "max.message.bytes": str(MAX_RECORD_BYTES),
    }
    plan = TopicPlan(name, settings.partitions, settings.replication_factor, configs)
    with _admin(settings) as admin:
        if not _describe(admin, [plan]):
            _create(admin, plan)
            admin.wait_for_topics([name], timeout_ms=settings.request_timeout_ms)


def actions_topic_id(settings: KafkaSettings) -> str:
    """Return the id of the actions topic; empty when it does not exist, or the cluster gives none.

    Raises ClusterUnreachableError, StreamError.
    """
    plan, *_ = plan_topics(settings)
    with _admin(settings) as admin:
        existing = _describe(admin, [plan]).get(plan.name)
    return "" if existing is None else existing.topic_id


def retentions_ms(settings: KafkaSettings) -> dict[str, int | None]:
    """Return how long each topic that holds records of users keeps them, as it is now; None for ever.

    A record goes with its segment, so up to ``segment.ms`` later. Topics that do not exist are left out. Raises
    ClusterUnreachableError, StreamError.
    """
    actions, _, dead_letters = plan_topics(settings)
    beside = [TopicPlan(name, 0, 0) for name in (settings.selections_topic, settings.exposures_topic)]
    with _admin(settings) as admin:
        existing = _describe(admin, [actions, dead_letters, *beside])
    kept = {name: int(topic.configs.get("retention.ms") or -1) for name, topic in existing.items()}
    return {name: milliseconds if milliseconds >= 0 else None for name, milliseconds in kept.items()}


def delete_topics(settings: KafkaSettings) -> None:
    """Delete the three topics, with everything in them; those that are missing are passed over.

    For topics made for a demo or a benchmark on a shared cluster. Raises ClusterUnreachableError, StreamError.
    """
    plans = plan_topics(settings)
    with _admin(settings) as admin:
        existing = _describe(admin, plans)
        if existing:
            admin.delete_topics(sorted(existing))


@contextmanager
def _admin(settings: KafkaSettings) -> Iterator[Any]:
    check_reachable(settings)
    try:
        admin = KafkaAdminClient(
            **settings.client_options(),
            request_timeout_ms=settings.request_timeout_ms,
            bootstrap_timeout_ms=settings.request_timeout_ms,
        )
    except (KafkaError, OSError) as error:
        raise ClusterUnreachableError(settings.bootstrap_servers, error) from error
    try:
        yield admin
    except KafkaError as error:
        raise StreamError(f"the cluster refused ({error}): see its log, and the rights of this login") from error
    finally:
        admin.close()


def _create(admin: Any, plan: TopicPlan) -> bool:  # noqa: ANN401 - the library ships no types
    """Create a topic; False when another process was faster."""
    answer = admin.create_topics(
        {
            plan.name: {
                "num_partitions": plan.partitions,
                "replication_factor": plan.replication_factor,
                "configs": dict(plan.configs),
            }
        },
        raise_errors=False,
    )
    (topic,) = answer["topics"]
    if topic["error_code"] == TopicAlreadyExistsError.errno:
        return False
    if topic["error_code"]:
        why = topic.get("error_message") or for_code(topic["error_code"]).__name__
        raise StreamError(
            f"topic {plan.name} cannot be created ({why}): correct the kafka settings, or create it by hand"
        )
    return True


def _describe(admin: Any, plans: Sequence[TopicPlan]) -> dict[str, _ExistingTopic]:  # noqa: ANN401
    """Return every topic that exists."""
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
            min((len(each["replica_nodes"]) for each in topic["partitions"]), default=0),
            {key: value["value"] for key, value in configs[topic["name"]].items()},
            _topic_id(topic.get("topic_id")),
        )
        for topic in topics
    }


def _report(plan: TopicPlan, now: Mapping[str, _ExistingTopic], created: frozenset[str] | set[str]) -> TopicReport:
    if plan.name not in now:
        return TopicReport(plan, TopicState.MISSING, ("it does not exist",), "Create it with `lifeline topics create`")
    partitions, replicas, configs, topic_id = now[plan.name]
    pairs = {"partitions": (str(partitions), str(plan.partitions))}
    pairs["replication factor"] = (str(replicas), str(plan.replication_factor))
    pairs |= {key: (str(configs.get(key)), wanted) for key, wanted in plan.configs.items()}
    differences = tuple(f"{what} is {got}, not {wanted}" for what, (got, wanted) in pairs.items() if got != wanted)
    advice = []
    if plan.is_keyed and partitions != plan.partitions:
        advice.append("Set kafka.partitions to what the topic has, or name another topic in kafka.actions_topic")
    if plan.requires_log_time and configs.get(_TIMESTAMP_TYPE) != _LOG_TIME:
        advice.append(
            "A producer could make everybody's events too old: let the broker give the time (kafka-configs.sh --alter "
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
