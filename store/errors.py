"""What the store raises. Each message ends in what to do."""

from lifeline.core.errors import ActionableError


class StoreError(ActionableError):
    """Anything the store refuses or cannot do."""


class CorruptRecordError(StoreError):
    """What is on disk does not decode.

    Operators: stop the node, set the directory that the message names aside, start again: the state is rebuilt
    from the topic.
    """

    def __init__(
        self,
        what: str,
        *,
        partition: int | None = None,
        user: str | None = None,
        record: str | None = None,
        directory: str | None = None,
    ) -> None:
        """`record` says which of the user's records it is: a head, a segment, or a chunk by its fence."""
        self.what, self.partition, self.user, self.record = what, partition, user, record
        named = (("partition", partition), ("user", user), ("record", record))
        where = ", ".join(f"{name} {value}" for name, value in named if value is not None)
        aside = directory or "the partition's directory"
        super().__init__(
            f"{what}{f' ({where})' if where else ''}: set {aside} aside and "
            "start the node again; it rebuilds the state from the topic"
        )


class FormatVersionError(StoreError):
    """Something on disk was written by a format this program does not read.

    Operators: run the program that wrote it, or set the directory aside and let the node rebuild it.
    """

    def __init__(self, what: str, found: object, reads: int) -> None:
        super().__init__(
            f"{what} has format {found}, and this program reads format {reads}: run the program that wrote it, or "
            "set the directory aside, and the node rebuilds it from the topic"
        )


class ContractError(StoreError):
    """A partition was built with other caps or ages than the settings ask for.

    Operators: set them back, or set the directory aside and let the node rebuild it from the topic.
    """

    def __init__(self, differences: str) -> None:
        super().__init__(
            f"the partition was built with other settings ({differences}): set them back, or set the directory aside, "
            "and the node rebuilds it from the topic"
        )


class StoreLockedError(StoreError):
    """Another process has the partition open.

    Operators: stop the other node, or give this one its own ``node.data_dir``.
    """


class StoreFailedError(StoreError):
    """An earlier write failed, so what is in memory may no longer equal what is on disk.

    Operators: restart the node; it reads the last consistent state.
    """


class ItemLimitError(StoreError):
    """A batch has more new items than the process has room for; nothing of it is applied, and reads go on.

    Operators: find the producer that publishes so many new items, or give the node more room.
    """

    def __init__(self, partition: int, used: int, new: int, most: int) -> None:
        self.partition, self.used, self.new, self.most = partition, used, new, most
        super().__init__(
            f"the partitions of this process hold {used:,} item ids of {most:,} (store.max_items), and the next "
            f"records of partition {partition} have {new:,} new ones: find out which producer publishes so many; "
            "then add nodes, or raise store.max_items with memory for them, and restart the node"
        )


class NotOwnerError(StoreError):
    """This node does not hold the user's partition.

    Callers: ask the node that does.
    """

    def __init__(self, partition: int) -> None:
        self.partition = partition
        super().__init__(
            f"this node does not hold partition {partition}: ask the node that does, or retry when the "
            "assignment has settled"
        )


class CatchingUpError(StoreError):
    """This node holds the user's partition, and has not yet applied what the log had when it came.

    Callers: retry with a back-off.
    """

    def __init__(self, partition: int) -> None:
        self.partition = partition
        super().__init__(
            f"partition {partition} catches up with its log: retry, or set updater.serve to stale to have older answers"
        )


class PartitionRefusingError(StoreError):
    """This node holds the user's partition, and does not serve it, for its state and the log do not meet.

    Operators: do what the node's log says.
    """

    def __init__(self, partition: int, why: str) -> None:
        self.partition = partition
        super().__init__(f"partition {partition} refuses: {why}")


class NotYetAppliedError(StoreError):
    """The partition has not reached the offset that a read demands.

    Callers: retry, with a longer deadline where it was short.
    """

    def __init__(self, partition: int, wanted: int, applied: int) -> None:
        self.partition, self.wanted, self.applied = partition, wanted, applied
        super().__init__(
            f"partition {partition} has applied offset {applied}, and {wanted} was asked for: retry (a wait ends at "
            "the call's deadline, or after node.max_wait_ms), or ask without min_offset"
        )


class SnapshotError(StoreError):
    """A snapshot cannot be made, listed or restored.

    Operators: do what the message ends in; nothing is left half done.
    """


class SnapshotRefusedError(SnapshotError):
    """A snapshot is not what was made: parts are missing, or have been changed.

    Operators: restore another one, or let the node rebuild the state from the topic.
    """

    def __init__(self, partition: int, snapshot: str, reason: str) -> None:
        self.partition, self.snapshot, self.reason = partition, snapshot, reason
        super().__init__(
            f"snapshot {snapshot} of partition {partition} is refused: {reason}. Restore another one "
            "(`lifeline snapshot list` shows them), or start the node without: it rebuilds the state from the topic"
        )
