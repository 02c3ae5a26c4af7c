"""Histograms of sizes, with bins whose width grows with the value."""

from bisect import bisect_right
from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple, Self

_DOUBLINGS = 33


class Bin(NamedTuple):
    """The number of values between two bounds, both included."""

    low: int
    high: int
    values: int


@dataclass(slots=True)
class Histogram:
    """Counts of values from 1 on, in bins whose width grows with the value."""

    edges: tuple[int, ...]
    counts: Counter[int] = field(default_factory=Counter)

    @classmethod
    def doublings(cls) -> Self:
        """Return an empty histogram with the bins 1, 2 to 3, 4 to 7, ..."""
        return cls(tuple(1 << power for power in range(_DOUBLINGS)))

    @classmethod
    def quarters(cls) -> Self:
        """Return an empty histogram with each of these bins split into four, as far as integers allow."""
        fourths = {(1 << power) * part for power in range(_DOUBLINGS) for part in range(4, 8)}
        return cls(tuple(sorted({-(-edge // 4) for edge in fourths})))

    def add(self, value: int) -> None:
        """Count a value."""
        self.counts[bisect_right(self.edges, value) - 1] += 1

    @property
    def bins(self) -> tuple[Bin, ...]:
        """The bins from the lowest to the highest that is not empty."""
        if not self.counts:
            return ()
        return tuple(
            Bin(self.edges[at], self.edges[at + 1] - 1, self.counts[at])
            for at in range(min(self.counts), max(self.counts) + 1)
        )
