"""The share of bad records among a partition's last ones: above a limit the fault is not in the records.

A producer with another schema, or a topic that is not what the settings name, makes every record bad. To move them
all into the dead letters would end in a state without its newest actions, and a topic that looks consumed.
"""

from collections import deque


class BadShare:
    """Counts whole batches: as few of the last ones as hold `records` records."""

    def __init__(self, records: int, most: float) -> None:
        """`most` is the largest share, 0 to 1, that is no reason to stop."""
        self._records, self._most = records, most
        self._batches: deque[tuple[int, int]] = deque()
        self.seen = 0
        """Records of the batches that count."""
        self.bad = 0
        """Bad ones among them."""

    def add(self, records: int, bad: int) -> None:
        """Count a batch of at least one record."""
        self._batches.append((records, bad))
        self.seen += records
        self.bad += bad
        while self.seen - self._batches[0][0] >= self._records:
            gone, gone_bad = self._batches.popleft()
            self.seen -= gone
            self.bad -= gone_bad

    @property
    def is_exceeded(self) -> bool:
        """Whether enough records have been seen, and too many of them were bad."""
        return self.seen >= self._records and self.bad > self._most * self.seen
