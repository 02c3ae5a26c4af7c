"""Errors of Kafka and of the stream. Each message ends with what to do."""

from collections.abc import Mapping
from socket import gaierror

from lifeline.core.errors import ActionableError

_LOGIN_ERRORS = frozenset(
    {
        "AuthenticationFailedError",
        "AuthenticationMethodNotSupported",
        "IllegalSaslStateError",
        "SaslAuthenticationFailedError",
        "UnsupportedSaslMechanismError",
    }
)


class StreamError(ActionableError):
    """Base class of errors about the cluster, its topics and their records."""


class ClusterUnreachableError(StreamError):
    """The cluster does not answer.

    Operators: start it, or correct ``kafka.bootstrap_servers`` and the login.
    """

    def __init__(self, servers: str, why: BaseException) -> None:
        self.servers = servers
        super().__init__(
            f"Kafka at {servers} does not answer ({_name(why)}): start it (`lifeline broker` runs "
            "one), or correct --bootstrap-servers / LIFELINE_KAFKA__BOOTSTRAP_SERVERS and the login settings"
        )


class ClusterRequestError(StreamError):
    """The cluster answers, and refuses a request, or this client cannot use its reply.

    Operators: do what the message says; mostly it is a permission of this login.
    """

    def __init__(self, servers: str, why: BaseException) -> None:
        name = _name(why)
        text = str(why) or name
        super().__init__(
            f"Kafka at {servers} answers, but a request failed ({text if name in text else f'{name}: {text}'}): "
            f"{_advice(name)}"
        )


def _name(why: BaseException) -> str:
    return type(why).__name__


def _advice(name: str) -> str:
    if name.endswith("AuthorizationFailedError"):
        return "give this login the right (kafka-acls.sh --add), or use another login"
    if name in _LOGIN_ERRORS:
        return "correct kafka.sasl_mechanism, kafka.sasl_username and kafka.sasl_password"
    return "see the broker's log, and the permissions of this login"


class BrokerAddressError(StreamError):
    """The cluster answers, and names its brokers by addresses to which this machine cannot connect.

    Operators: correct ``advertised.listeners`` on the brokers.
    """

    def __init__(self, servers: str, failures: Mapping[str, OSError]) -> None:
        """`failures` has the error of each broker by its address, host:port."""
        what = "; ".join(
            f"{address} {'does not resolve' if isinstance(why, gaierror) else f'does not answer ({_name(why)})'}"
            for address, why in sorted(failures.items())
        )
        super().__init__(
            f"Kafka answers at {servers}, but gives its brokers addresses that cannot be used from here: {what}. Set "
            "advertised.listeners on the brokers to names and ports that all clients reach, or let this machine "
            "resolve these names"
        )


class GroupConflictError(StreamError):
    """The group is not the nodes' alone, or the cluster does not let this node into it.

    Operators: give the other consumer another group id, or set ``kafka.group_id``; the message says which.
    """


class StalledReadError(StreamError):
    """The cluster answers, and sends no further record of a partition whose log goes on.

    Operators: look at the broker's log.
    """

    def __init__(self, topic: str, partition: int, position: int, seconds: float) -> None:
        super().__init__(
            f"{topic} {partition} has records from offset {position} on, and the cluster sent none within "
            f"{seconds:g} s: see the warnings before this message and the broker's log, and run the command again"
        )


class TopicMismatchError(StreamError):
    """A topic is missing, or differs from the settings in a way that would lose or misplace actions.

    Operators: set ``kafka.partitions`` to what the topic has, or name another topic.
    """


class InvalidActionError(StreamError, ValueError):
    """An invalid action: every node would dead-letter it.

    Producers: correct the field that the message names.
    """


class InvalidItemError(StreamError, ValueError):
    """An invalid item: every node would ignore it.

    Producers: send an embedding of 32 numbers.
    """


class PublishError(StreamError):
    """Records were not acknowledged.

    Producers: publish them again; an action that arrives twice counts once.
    """


class DeadLetterError(StreamError):
    """A dead letter was not acknowledged, so its partition cannot continue.

    Operators: create the dead-letter topic (``lifeline topics create``), or repair the cluster.
    """


class PartitionLostError(StreamError):
    """There is a gap between a partition's store and its log: the log no longer has the next record.

    Operators: restore a snapshot, or replay into an empty directory.
    """


class TransportError(StreamError):
    """The consumer crashed.

    Operators: the node ends; restart it. No data is lost, because the log has it.
    """
