"""The status of a partition that this node follows as a standby."""

from dataclasses import dataclass
from enum import StrEnum


class StandbyState(StrEnum):
    """The state of a followed partition."""

    FOLLOWING = "following"
    """It applies the log."""
    WAITING = "waiting"
    """It tries again later: the disk is full, or the owner is not known to have published the next dead letter."""
    PAUSED = "paused"
    """Partitions were added to the topic: it applies nothing more, and can take over as it is."""
    REFUSING = "refusing"
    """Its store does not fit the log, or is full; an operator has to act."""
    DIVERGED = "diverged"
    """Its fingerprint differs from the owner's; an operator has to find out which of the two is wrong."""

    @property
    def applies(self) -> bool:
        """Whether it applies the log."""
        return self in {StandbyState.FOLLOWING, StandbyState.WAITING}

    @property
    def is_active(self) -> bool:
        """Whether its store can take over."""
        return self.applies or self is StandbyState.PAUSED


@dataclass(frozen=True, slots=True)
class StandbyStatus:
    """One followed partition at one moment."""

    partition: int
    state: StandbyState
    applied_offset: int
    """The last offset applied; -1 before the first."""
    lag: int
    """Known records of the log that are not applied yet."""
    reason: str
    """Why it is paused, refuses, has diverged, or waits for space on the disk; empty otherwise."""
