"""A steady rate, open loop: what is due is due, however long what came before took."""

import time
from collections.abc import Iterator

from benchmarks.hostile.child import Control


def due_times(per_s: float, control: Control) -> Iterator[float]:
    """Yield each due time, of `time.monotonic`, once it has come, until the end."""
    started, number = time.monotonic(), 0
    while not control.over:
        due = started + number / per_s
        if (early := due - time.monotonic()) > 0 and control.wait(early):
            return
        yield due
        number += 1


def spaced(per_s: float, control: Control) -> Iterator[int]:
    """Yield 0, 1 and so on at this rate at most: an attack that falls behind does not make up for it."""
    number = 0
    while not control.over:
        began = time.monotonic()
        yield number
        number += 1
        if control.wait(max(0.0, began + 1 / per_s - time.monotonic())):
            return
