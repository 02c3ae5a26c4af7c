"""A circuit breaker: it stops a partition when too many of its last records are bad.

A producer with another schema, or a wrong topic in the settings, makes every record bad. Dead-lettering all of them
would leave a state without its newest actions, and a topic that looks consumed.
"""

from collections import deque


class BadRecordBreaker:
    """Counts the bad records of the last batches: as few batches as hold `records` records."""

    def __init__(self, records: int, max_share: float) -> None:
        """`max_share`, 0 to 1, is the largest share that does not trip the breaker."""
        self._records, self._max_share = records, max_share
        self._batches: deque[tuple[int, int]] = deque()
        self.seen = 0
        """Records of the batches that count."""
        self.bad = 0
        """Bad records among them."""

    def add(self, records: int, bad: int) -> None:
        """Count a batch of at least one record."""
        self._batches.append((records, bad))
        self.seen += records
        self.bad += bad
        while self.seen - self._batches[0][0] >= self._records:
            oldest, oldest_bad = self._batches.popleft()
            self.seen -= oldest
            self.bad -= oldest_bad

    @property
    def is_tripped(self) -> bool:
        """Whether enough records have been seen, and too many of them were bad."""
        return self.seen >= self._records and self.bad > self._max_share * self.seen
