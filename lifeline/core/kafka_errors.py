"""Errors of Kafka and of the stream. Each message ends with what to do."""

from lifeline.core.errors import ActionableError


class StreamError(ActionableError):
    """Base class of errors about the cluster, its topics and their records."""


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
