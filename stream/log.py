"""The interfaces between transport and updater: the log that the updater reads, and the handler it implements."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from lifeline.core.kafka_errors import TransportError
from lifeline.stream.record import Record


class Bounds(NamedTuple):
    """The range of offsets in the log of a partition."""

    start: int
    """Its first offset."""
    end: int
    """The offset after the last record that can be read; equal to `start` when there is none."""


class LogEnd(NamedTuple):
    """Where the log of a partition ended at the last fetch."""

    stable: int
    """The last stable offset: no record from it on is delivered, because a transaction that began there is open."""
    end: int
    """The offset after the last record (the high watermark); equal to `stable` when no transaction is open."""


class LogReader(Protocol):
    """The transport's interface to a handler, for the partitions of one assignment.

    `bounds`, `resume_at` and `pause` raise PartitionGoneError when the partition was revoked meanwhile.
    """

    async def bounds(self, partition: int) -> Bounds:
        """Ask the cluster for the bounds of the log."""

    async def resume_at(self, partition: int, offset: int) -> None:
        """Deliver the partition's records, from `offset` on."""

    def pause(self, partition: int) -> None:
        """Deliver no more records of the partition."""

    def known_end(self, partition: int) -> LogEnd | None:
        """Return where the log ended at the last fetch; None before the first fetch."""

    def partition_count(self) -> int | None:
        """Return how many partitions the topic had when the cluster last told; None if it is not known."""

    def position(self, partition: int) -> int | None:
        """Return the offset to fetch next. It also moves past control records, which are never delivered."""

    def connected(self, partition: int) -> bool:
        """Return whether the partition's leader is known and connected, so that its records can be fetched."""

    async def commit(self, offsets: Mapping[int, int]) -> bool:
        """Commit the group's offsets, for tools that show lag; on failure log a warning and return False."""


class Handler(Protocol):
    """The transport's callbacks, all in the application's event loop. An exception ends the transport."""

    async def on_assigned(self, partitions: frozenset[int], reader: LogReader) -> None:
        """Handle a new assignment of exactly these partitions; records are delivered after `LogReader.resume_at`."""

    async def on_revoked(self, partitions: frozenset[int]) -> None:
        """Drop the waiting records of these partitions, and return once none of their batches is being applied."""

    async def wait_for_room(self) -> None:
        """Return when more records may be delivered: this is the back-pressure."""

    async def on_records(self, number: int, records: Sequence[Record]) -> None:
        """Take records of partition `number`: at least one, ascending by offset.

        After a rebalance they may come from a fetch that began before it, so check that their offsets are the next.
        """


class PartitionGoneError(TransportError):
    """The partition was revoked during a call: the caller must not use it any more."""
