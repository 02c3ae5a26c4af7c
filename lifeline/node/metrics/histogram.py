"""A histogram that takes a whole column of values in one call."""

import threading

import numpy as np
from numpy.typing import ArrayLike


class ColumnHistogram:
    """Counts values by bucket. Every method may be called from any thread."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        """`bounds` are the upper bounds of the buckets, inclusive and ascending; an infinite one is added."""
        self._bounds = np.array(bounds, np.float64)
        self._counts = np.zeros(len(bounds) + 1, np.int64)
        self._sum = 0.0
        self._lock = threading.Lock()

    def observe(self, values: ArrayLike) -> None:
        """Count values, float64[n]."""
        column = np.asarray(values, np.float64)
        counts = np.bincount(np.searchsorted(self._bounds, column), minlength=len(self._counts))
        total = float(column.sum())
        with self._lock:
            self._counts += counts
            self._sum += total

    def buckets(self) -> tuple[list[tuple[str, float]], float]:
        """Return (upper bound as Prometheus writes it, values up to it) ascending, and the sum of all values."""
        with self._lock:
            counts, total = self._counts.copy(), self._sum
        texts = [*(repr(float(bound)) for bound in self._bounds), "+Inf"]
        return list(zip(texts, np.cumsum(counts).astype(float).tolist(), strict=True)), total
