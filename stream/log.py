"""The log as the updater sees it: what it may ask of the transport, and what the transport calls."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from lifeline.core.kafka_errors import TransportError
from lifeline.stream.record import Record


class Bounds(NamedTuple):
    """What the log of a partition holds."""

    start: int
    """Its first offset."""
    end: int
    """The offset behind its last record; its first offset when it is empty."""


class LogReader(Protocol):
    """What a handler may ask of the transport, for partitions that are assigned to it.

    Each method raises PartitionGoneError when the partition was revoked meanwhile.
    """

    async def bounds(self, partition: int) -> Bounds:
        """Ask the cluster what the log holds."""

    async def resume_at(self, partition: int, offset: int) -> None:
        """Hand over the partition's records from `offset` on."""

    def pause(self, partition: int) -> None:
        """Hand over no more records of the partition."""

    def known_end(self, partition: int) -> int | None:
        """Return the end of the log as the last fetch told it; None before the first fetch."""

    def position(self, partition: int) -> int | None:
        """Return the offset that is fetched next; it passes control records, which no handler sees."""

    def connected(self, partition: int) -> bool:
        """Say whether the partition's leader is known and a connection to it is up: its records can be fetched."""

    async def commit(self, offsets: Mapping[int, int]) -> bool:
        """Set the group's offsets, for tools that show lag; False (and a warning) when that failed."""


class Handler(Protocol):
    """What the transport tells. All in the application's event loop; an exception ends the transport."""

    async def on_assigned(self, partitions: frozenset[int], reader: LogReader) -> None:
        """Take over exactly these partitions; none of their records comes before `LogReader.resume_at`."""

    async def on_revoked(self, partitions: frozenset[int]) -> None:
        """Return once nothing of these partitions is being applied; what was handed over and is not, is void."""

    async def wait_for_room(self) -> None:
        """Return when more records may be handed over: the back-pressure."""

    async def on_records(self, number: int, records: Sequence[Record]) -> None:
        """Take records of partition `number`, ascending by offset, at least one.

        Around a rebalance they may be what was fetched before it: only their offsets tell whether they are next.
        """


class PartitionGoneError(TransportError):
    """The partition was revoked while something was asked about it: whoever asked has no business with it now."""
