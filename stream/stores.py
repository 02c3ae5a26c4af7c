"""What the stream needs of a partition's store: to open it, to write to it, and to show it to readers."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from lifeline.core.actions import ActionBatch
from lifeline.stream.fingerprint_log import StateAt


class Store(Protocol):
    """What the updater needs of a partition's store: `store.partition.PartitionStore` has it."""

    @property
    def state(self) -> StateAt:
        """Applied offset and fingerprint, of one moment."""

    @property
    def applied_offset(self) -> int:
        """The last offset that is part of the state; -1 before the first."""

    @property
    def durable_offset(self) -> int:
        """The last offset that survives what the store promises; at or below the applied one."""

    def apply(self, batch: ActionBatch, *, offset: int) -> Any:  # noqa: ANN401 - the caller's own result
        """Add the batch's events and move the applied offset, as one write."""

    def erase(self, user_id: bytes, *, offset: int) -> int:
        """Remove a user's events and move the applied offset, as one write; return how many there were."""


StoreT = TypeVar("StoreT", bound=Store)
_StoreT_contra = TypeVar("_StoreT_contra", contravariant=True)


class Directory(Protocol[_StoreT_contra]):
    """Where readers find open stores: `rpc.directory.PartitionDirectory` fits."""

    def add(self, store: _StoreT_contra, lag: Callable[[], int]) -> None:
        """Serve the store's partition from now on; `lag` gives the records still to be applied, in any thread."""

    def announce(self, partition: int) -> None:
        """Say that this node owns a partition, and will serve it once it has caught up."""

    def remove(self, partition: int, why: str = "") -> None:
        """Stop serving a partition; with `why` this node keeps it, and refuses."""


@dataclass(frozen=True, slots=True)
class StoreAccess(Generic[StoreT]):
    """How a partition's store is opened and closed; both are called in threads."""

    open: Callable[[int], StoreT]
    """Opens a partition's store, and restores it first where it must; this may take long."""
    close: Callable[[StoreT], None]
