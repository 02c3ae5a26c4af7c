"""Errors of Kafka and of the stream. Each message ends in what to do."""

from lifeline.core.errors import ActionableError


class StreamError(ActionableError):
    """Base of all errors about the cluster, its topics and their records."""


class ClusterUnreachableError(StreamError):
    """The cluster does not answer.

    Operators: start it, or correct ``kafka.bootstrap_servers`` and the login.
    """

    def __init__(self, servers: str, why: BaseException) -> None:
        self.servers = servers
        super().__init__(
            f"Kafka at {servers} does not answer ({type(why).__name__}): start it (`lifeline broker` runs "
            "one), or correct --bootstrap-servers / LIFELINE_KAFKA__BOOTSTRAP_SERVERS and the login settings"
        )


class TopicMismatchError(StreamError):
    """A topic is missing, or differs from the settings in a way that would lose or misplace actions.

    Operators: set ``kafka.partitions`` to what the topic has, or name another topic.
    """


class InvalidActionError(StreamError, ValueError):
    """An action that every node would dead-letter.

    Producers: correct the field that the message names.
    """


class InvalidItemError(StreamError, ValueError):
    """An item that every node would pass over.

    Producers: give an embedding of 32 numbers.
    """


class PublishError(StreamError):
    """Records were not acknowledged.

    Producers: publish them again; an action that did arrive changes nothing when it comes twice.
    """


class DeadLetterError(StreamError):
    """A dead letter was not acknowledged, so its partition cannot move on.

    Operators: create the dead-letter topic (``lifeline topics create``), or see to the cluster's health.
    """


class PartitionLostError(StreamError):
    """A partition's store and its log no longer meet: applying what the log has would leave a gap.

    Operators: restore a snapshot, or replay into a fresh directory.
    """


class TransportError(StreamError):
    """The consumer crashed.

    Operators: the node ends; start it again, its state is what the log gives.
    """
