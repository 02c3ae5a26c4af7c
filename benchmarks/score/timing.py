"""Medians of repeated work."""

import time
from collections.abc import Callable

import numpy as np

_WARM = 2


def times_ms(work: Callable[[], object], repeats: int) -> list[float]:
    """Return the milliseconds of each of so many repeats, after two that do not count."""
    found = []
    for _ in range(repeats + _WARM):
        begun = time.perf_counter()
        work()
        found.append((time.perf_counter() - begun) * 1_000)
    return found[_WARM:]


def median_ms(work: Callable[[], object], repeats: int) -> float:
    """Return their median."""
    return float(np.median(times_ms(work, repeats)))
