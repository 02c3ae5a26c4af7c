"""A deadline: a time budget that all steps of an operation share, on the monotonic clock."""

import time


class Deadline:
    """A budget of `seconds`, which starts with the first call of `begin` or `left`."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._end: float | None = None

    def begin(self) -> None:
        """Start the budget, unless it has started."""
        if self._end is None:
            self._end = time.monotonic() + self._seconds

    def left(self) -> float:
        """Return the seconds that are left, at least 0; starts the budget."""
        self.begin()
        return max(0.0, (self._end or 0.0) - time.monotonic())
