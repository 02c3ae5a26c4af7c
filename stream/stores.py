"""The interfaces of the stream to the stores: opening them, writing to them, and making them readable."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from lifeline.core.actions import ActionBatch
from lifeline.stream.fingerprint_log import AppliedState


class Store(Protocol):
    """A partition's store as the updater uses it; `store.partition.PartitionStore` implements it."""

    @property
    def state(self) -> AppliedState:
        """Applied offset and fingerprint of the same moment."""

    @property
    def applied_offset(self) -> int:
        """The last offset that is part of the state; -1 before the first."""

    @property
    def durable_offset(self) -> int:
        """The last offset that survives the failures that the store's durability covers; at most the applied one."""

    def apply(self, batch: ActionBatch, *, offset: int) -> Any:  # noqa: ANN401 - each store has its own result
        """Add the batch's events and move the applied offset, as one write."""

    def erase(self, user_id: bytes, *, offset: int) -> int:
        """Remove a user's events and move the applied offset, as one write; return the number of events removed."""


StoreT = TypeVar("StoreT", bound=Store)
_StoreT_contra = TypeVar("_StoreT_contra", contravariant=True)


class Directory(Protocol[_StoreT_contra]):
    """Where readers find open stores; `rpc.directory.PartitionDirectory` implements it."""

    def add(self, store: _StoreT_contra, lag: Callable[[], int], blocked: Callable[[], str]) -> None:
        """Serve the store's partition from now on.

        `lag` returns the records still to apply, and `blocked` why none of them will be applied before somebody acts,
        or an empty text; both are called in any thread.
        """

    def announce(self, partition: int) -> None:
        """Tell readers that this node owns a partition, and will serve it once it has caught up."""

    def remove(self, partition: int, why: str = "") -> None:
        """Stop serving a partition; with `why`, this node still owns it, and refuses calls for that reason."""


@dataclass(frozen=True, slots=True)
class StoreAccess(Generic[StoreT]):
    """The functions that open and close a partition's store; both are called in threads."""

    open: Callable[[int], StoreT]
    """Opens a partition's store, and first restores it if necessary; this may take long."""
    close: Callable[[StoreT], None]
