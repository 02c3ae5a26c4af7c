"""A steady rate, open loop: due times do not depend on how long earlier work took."""

import time
from collections.abc import Iterator

from benchmarks.hostile.child import Control


def due_times(per_s: float, control: Control) -> Iterator[float]:
    """Yield each due time, by `time.monotonic`, when it has come, until the end."""
    started, number = time.monotonic(), 0
    while not control.is_over:
        due = started + number / per_s
        if (early := due - time.monotonic()) > 0 and control.wait(early):
            return
        yield due
        number += 1


def paced(per_s: float, control: Control) -> Iterator[int]:
    """Yield 0, 1 and so on, at most at this rate: an attack that falls behind does not catch up."""
    number = 0
    while not control.is_over:
        began = time.monotonic()
        yield number
        number += 1
        if control.wait(max(0.0, began + 1 / per_s - time.monotonic())):
            return
