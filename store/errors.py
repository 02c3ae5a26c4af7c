"""The errors of the store. Each message ends with what to do."""

from lifeline.core.errors import ActionableError


class StoreError(ActionableError):
    """Base class of the store's errors."""


class CorruptRecordError(StoreError):
    """Data on disk does not decode.

    Operators: stop the node, set aside the directory that the message names, and start the node again: it rebuilds the
    state from the topic.
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
        """`record` names the user's record: a head, a segment, or a chunk by its fence."""
        self.what, self.partition, self.user, self.record = what, partition, user, record
        location = (("partition", partition), ("user", user), ("record", record))
        where = ", ".join(f"{name} {value}" for name, value in location if value is not None)
        target = directory or "the partition's directory"
        super().__init__(
            f"{what}{f' ({where})' if where else ''}: set {target} aside and "
            "start the node again; it rebuilds the state from the topic"
        )


class FormatVersionError(StoreError):
    """Data on disk has a format that this version of the program does not read.

    Operators: run the version that wrote it, or set the directory aside and let the node rebuild it.
    """

    def __init__(self, what: str, version: object, supported: int) -> None:
        super().__init__(
            f"{what} has format {version}, and this program reads format {supported}: run the version of the program "
            "that wrote it, or set the directory aside, and the node rebuilds it from the topic"
        )


class RetentionPolicyError(StoreError):
    """A partition was built with another retention policy (caps, ages) than the settings have.

    Operators: restore the old settings, or set the directory aside and let the node rebuild it from the topic.
    """

    def __init__(self, differences: str) -> None:
        super().__init__(
            f"the partition was built with other settings ({differences}): restore them, or set the directory aside, "
            "and the node rebuilds it from the topic"
        )


class StoreLockedError(StoreError):
    """Another process has the partition open.

    Operators: stop the other node, or give this one its own ``node.data_dir``.
    """


class OpenFilesError(StoreError):
    """This process may not open as many files as its partitions need.

    Operators: raise the limit.
    """

    def __init__(self, what: str, needed: int, limit: int) -> None:
        self.needed, self.limit = needed, limit
        super().__init__(
            f"{what} need {needed:,} open files, and this process may have {limit:,}: raise its hard limit to at least "
            f"{needed:,} (ulimit -n; LimitNOFILE= of a systemd unit; the nofile ulimit of a container), or use fewer "
            "partitions"
        )


class StoreFailedError(StoreError):
    """A write failed in a way that RocksDB does not get over, or a record that a write needed is damaged.

    Operators: restart the node; it loads the last consistent state.
    """


class DiskFullError(StoreError):
    """The disk has no room for a write. Nothing is lost, reads continue, and the call may be repeated.

    Operators: free space.
    """

    def __init__(self, what: str, directory: object, why: str) -> None:
        super().__init__(
            f"the disk has no room for {what} ({why}): free 64 MiB or more on the disk of {directory}; a node then "
            "continues by itself, and a command must be started again"
        )


class ItemLimitError(StoreError):
    """A batch has more new items than the process may hold. None of it is applied, and reads continue.

    Operators: find the producer that publishes so many new items, or give the node more room.
    """

    def __init__(self, partition: int, used: int, new: int, limit: int) -> None:
        self.partition, self.used, self.new, self.limit = partition, used, new, limit
        super().__init__(
            f"the partitions of this process hold {used:,} item ids of {limit:,} (store.max_items), and the next "
            f"records of partition {partition} have {new:,} new ones: find out which producer publishes so many, "
            "then add nodes, or raise store.max_items if there is memory, and restart the node"
        )


class NotOwnerError(StoreError):
    """This node does not hold the user's partition.

    Callers: send the request to its owner.
    """

    def __init__(self, partition: int) -> None:
        self.partition = partition
        super().__init__(
            f"this node does not hold partition {partition}: ask the node that does, or retry when the "
            "assignment has settled"
        )


class CatchingUpError(StoreError):
    """This node holds the user's partition, but is still applying the log that existed at its assignment.

    Callers: retry with a back-off.
    """

    def __init__(self, partition: int) -> None:
        self.partition = partition
        super().__init__(
            f"partition {partition} is catching up with its log: retry, or set updater.serve to stale for older answers"
        )


class PartitionRefusingError(StoreError):
    """This node holds the user's partition, but does not serve it, because its state does not fit the log.

    Operators: follow the message in the node's log.
    """

    def __init__(self, partition: int, why: str) -> None:
        self.partition = partition
        super().__init__(f"partition {partition} refuses: {why}")


class NotYetAppliedError(StoreError):
    """The partition has not applied the `min_offset` of a read.

    Callers: retry, with a longer deadline where it was short. With a `blocked`, leave `min_offset` out.
    """

    def __init__(self, partition: int, requested: int, applied: int, blocked: str = "") -> None:
        """`blocked` says why no later record will be applied before somebody acts."""
        self.partition, self.requested, self.applied, self.blocked = partition, requested, applied, blocked
        where = f"partition {partition} has applied offset {applied}, and the call needs {requested}"
        super().__init__(
            f"{where}; until somebody acts, leave min_offset out. Its records are not applied: {blocked}"
            if blocked
            else f"{where}: retry (a wait ends at the call's deadline, or after node.max_wait_ms), or leave min_offset "
            "out"
        )


class SnapshotError(StoreError):
    """A snapshot cannot be created, listed or restored.

    Operators: do what the message says; nothing incomplete is left behind.
    """


class SnapshotRefusedError(SnapshotError):
    """A snapshot is incomplete, damaged or changed.

    Operators: restore another one, or let the node rebuild the state from the topic.
    """

    def __init__(self, partition: int, snapshot: str, reason: str) -> None:
        self.partition, self.snapshot, self.reason = partition, snapshot, reason
        super().__init__(
            f"snapshot {snapshot} of partition {partition} is refused: {reason}. Restore another one "
            "(`lifeline snapshot list` shows them), or start the node without one: it rebuilds the state from the topic"
        )
