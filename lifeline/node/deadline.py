"""A deadline: one time budget, on the monotonic clock, that all steps of an operation share."""

import time


class Deadline:
    """Starts at the first call of `left`, or of `begin`."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._end: float | None = None

    def begin(self) -> None:
        """Start the budget, unless it has started."""
        if self._end is None:
            self._end = time.monotonic() + self._seconds

    def left(self) -> float:
        """Return the seconds left, 0 when there are none; starts the budget."""
        self.begin()
        return max(0.0, (self._end or 0.0) - time.monotonic())
