"""An open transaction that holds back the next record of a partition.

Readers get records up to the last stable offset, where the earliest open transaction of any producer began. Records of
other producers behind it wait too, until that transaction has ended.
"""

import time
from datetime import UTC, datetime
from typing import NamedTuple


class Held(NamedTuple):
    """An open transaction that holds back the next record."""

    offset: int
    """The last stable offset, where the transaction began."""
    at: float
    """When this was noticed, seconds on the monotonic clock."""
    since_ms: int
    """The same, milliseconds since 1970."""

    @property
    def open_s(self) -> float:
        """Seconds since this was noticed; 0 for none."""
        return time.monotonic() - self.at if self.offset >= 0 else 0.0

    def reason(self, partition: int, topic: str = "ACTIONS_TOPIC") -> str:
        """Return what to tell an operator."""
        since = datetime.fromtimestamp(self.since_ms // 1000, UTC).isoformat()
        return (
            f"a transaction that began at offset {self.offset} has been open since {since} or earlier, and no reader "
            "gets any record from there on: end it in its producer, or with `kafka-transactions.sh --bootstrap-server "
            f"HOST:PORT abort --topic {topic} --partition {partition} --start-offset {self.offset}`"
        )


NOT_HELD = Held(-1, 0.0, 0)
"""No transaction holds back the next record."""


def held_now(before: Held, stable: int, end: int) -> Held:
    """Return what holds back the next record of a log that ends at `end`, if all before `stable` has been read.

    `before` is what this function returned for the same partition at the last look.
    """
    if stable >= end:
        return NOT_HELD
    return before if before.offset == stable else Held(stable, time.monotonic(), time.time_ns() // 1_000_000)
