"""The cluster's administration: a connection, and the description of the nodes' consumer group."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from kafka import KafkaAdminClient
from kafka.errors import KafkaError

from lifeline.core.kafka_cluster import addresses_of, check_brokers, check_reachable, cluster_error
from lifeline.core.kafka_settings import KafkaSettings

CLASSIC = "classic"


class ConsumerGroup(NamedTuple):
    """A consumer group at one moment."""

    type: str
    """``classic``, or ``consumer`` for one of the new protocol, in which the broker places partitions; or another."""
    protocol_type: str
    """What its members are: ``consumer``, ``connect`` and so on; empty when it is not known."""
    assignor: str
    """How the members of a classic group place partitions; empty without members, and in other groups."""
    members: tuple[str, ...]
    """Client id and host of each member, ascending; empty in other than classic groups."""


@contextmanager
def open_admin(settings: KafkaSettings) -> Iterator[Any]:
    """Yield kafka-python's admin client. Raises ClusterUnreachableError, BrokerAddressError, ClusterRequestError."""
    check_reachable(settings)
    try:
        admin = KafkaAdminClient(
            **settings.client_options(),
            request_timeout_ms=settings.request_timeout_ms,
            bootstrap_timeout_ms=settings.request_timeout_ms,
        )
    except (KafkaError, OSError) as error:
        raise cluster_error(settings, error) from error
    try:
        check_brokers(settings, addresses_of(admin._manager.cluster))  # noqa: SLF001 - there is no public way
        yield admin
    except KafkaError as error:
        raise cluster_error(settings, error) from error
    finally:
        admin.close()


def describe_group(settings: KafkaSettings) -> ConsumerGroup | None:
    """Return the group ``kafka.group_id``; None if the cluster does not know it. Raises what `open_admin` raises."""
    name = settings.group_id
    with open_admin(settings) as admin:
        listed = next((group for group in admin.list_groups() if group["group_id"] == name), None)
        if listed is None:
            return None
        # Brokers before 4.0 have only classic groups, and do not give the type.
        kind = str(listed.get("group_type") or CLASSIC).lower()
        described = admin.describe_groups([name])[name] if kind == CLASSIC else {}
    members = sorted(f"{member['client_id']} at {member['client_host']}" for member in described.get("members") or ())
    return ConsumerGroup(
        kind,
        str(described.get("protocol_type") or listed["protocol_type"]),
        str(described.get("protocol_data") or ""),
        tuple(members),
    )
