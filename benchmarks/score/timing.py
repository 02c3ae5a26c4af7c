"""Medians of repeated work."""

import time
from collections.abc import Callable

import numpy as np

_WARM = 2


def times_ms(work: Callable[[], object], repeats: int) -> list[float]:
    """Return the milliseconds of each repeat, after two warm-up calls."""
    times = []
    for _ in range(repeats + _WARM):
        started = time.perf_counter()
        work()
        times.append((time.perf_counter() - started) * 1_000)
    return times[_WARM:]


def median_ms(work: Callable[[], object], repeats: int) -> float:
    """Return the median milliseconds of the repeats."""
    return float(np.median(times_ms(work, repeats)))
