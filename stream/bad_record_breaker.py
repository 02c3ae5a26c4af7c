"""A circuit breaker that stops a partition when too many of its last records are bad.

With a wrong schema in a producer, or a wrong topic in the settings, every record is bad. If all of them became dead
letters, the state would lack its newest actions, while the topic would look consumed.
"""

from collections import Counter, deque
from collections.abc import Sequence

from lifeline.stream.decode import DeadLetter


class BadRecordBreaker:
    """Counts bad records in a window: the fewest last batches that have at least `records` records together."""

    def __init__(self, records: int, max_share: float) -> None:
        """`max_share`, 0 to 1, is the largest share that does not trip the breaker."""
        self._records, self._max_share = records, max_share
        self._batches: deque[tuple[int, int]] = deque()
        self.records = 0
        """Records in the window."""
        self.bad = 0
        """Bad records among them."""

    def add(self, records: int, bad: int) -> None:
        """Count a batch of at least one record."""
        self._batches.append((records, bad))
        self.records += records
        self.bad += bad
        while self.records - self._batches[0][0] >= self._records:
            oldest, oldest_bad = self._batches.popleft()
            self.records -= oldest
            self.bad -= oldest_bad

    @property
    def is_tripped(self) -> bool:
        """Whether the window is full, and too many of its records are bad."""
        return self.records >= self._records and self.bad > self._max_share * self.records

    def reason(self, dead_letters: Sequence[DeadLetter]) -> str:
        """Return why a partition refuses, with its newest dead letters, at least one."""
        first = dead_letters[0]
        counts = Counter(letter.reason.value for letter in dead_letters)
        listed = ", ".join(f"{count} {reason}" for reason, count in counts.most_common())
        return (
            f"{self.bad} of the last {self.records} records are bad (now {listed}; offset {first.record.offset}: "
            f"{first.message}): correct the producer, or raise updater.max_bad_share to make them dead letters, and "
            "restart the node"
        )
