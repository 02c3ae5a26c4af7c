"""Says why the group does not let a node in, or is not the nodes' alone: which group, which consumer, what to set."""

from typing import Final

import structlog
from aiokafka.errors import (
    GroupAuthorizationFailedError,
    InconsistentGroupProtocolError,
    InvalidGroupIdError,
    InvalidSessionTimeoutError,
)

from lifeline.core.kafka_admin import CLASSIC, ConsumerGroup, describe_group
from lifeline.core.kafka_errors import GroupConflictError, StreamError
from lifeline.core.kafka_settings import KafkaSettings
from lifeline.stream.assignor import LifelineAssignor

_SHOWN_MEMBERS = 5
_CONSUMER: Final = "consumer"

_log = structlog.get_logger(__name__)


def group_error(kafka: KafkaSettings, error: BaseException | None) -> StreamError | None:
    """Return the error to raise for a refusal of the group's coordinator; None if `error` is something else.

    It may ask the cluster who else is in the group, and blocks meanwhile.
    """
    if isinstance(error, InconsistentGroupProtocolError):
        return conflict(kafka)
    if isinstance(error, InvalidSessionTimeoutError):
        return GroupConflictError(
            f"the cluster does not accept kafka.session_timeout_ms = {kafka.session_timeout_ms}: set it to at least "
            "the brokers' group.min.session.timeout.ms and at most their group.max.session.timeout.ms"
        )
    if isinstance(error, InvalidGroupIdError):
        return GroupConflictError(f"the cluster does not accept kafka.group_id = {kafka.group_id!r}: set another one")
    if isinstance(error, GroupAuthorizationFailedError):
        return GroupConflictError(
            f"this login may not join group {kafka.group_id}: give it the right to read the group "
            f"(kafka-acls.sh --add --operation Read --group {kafka.group_id}), or set kafka.group_id"
        )
    return None


def conflict(kafka: KafkaSettings) -> GroupConflictError:
    """Return the error for a group with members that are no nodes."""
    try:
        group = describe_group(kafka)
    except StreamError as error:
        _log.warning("the group cannot be described", group_id=kafka.group_id, why=str(error))
        group = None
    return GroupConflictError(
        f"group {kafka.group_id} has members that are no nodes{_who(group)}. Give that consumer another group.id, or "
        f"set kafka.group_id to a group that only nodes use"
    )


def check_placed_by_broker(kafka: KafkaSettings) -> None:
    """Raise GroupConflictError if the broker places the partitions of the group, and not its leader among the nodes."""
    try:
        group = describe_group(kafka)
    except StreamError as error:
        _log.warning("the group cannot be described", group_id=kafka.group_id, why=str(error))
        return
    if group is not None and group.type != CLASSIC:
        raise conflict(kafka)


def _who(group: ConsumerGroup | None) -> str:
    if group is None:
        return ""
    if group.type != CLASSIC:
        return (
            f": it is of type {group.type} (group.protocol={group.type}), in which the broker places the partitions "
            "instead of the nodes"
        )
    shown = ", ".join(group.members[:_SHOWN_MEMBERS]) + (", ..." if len(group.members) > _SHOWN_MEMBERS else "")
    what = (
        f"of type {group.protocol_type}"
        if group.protocol_type not in {"", _CONSUMER}
        else f"placing partitions by {group.assignor or 'another assignor'} instead of {LifelineAssignor.name}"
    )
    return f": {shown or 'consumers'}, {what}"
