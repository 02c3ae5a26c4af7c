"""Units of time: which one a number is in that does not fit as milliseconds."""

DAY_MS = 86_400_000

_UNITS = (
    ("seconds", 1_000, 1),
    ("thousands of seconds", 1_000_000, 1),
    ("microseconds", 1, 1_000),
    ("nanoseconds", 1, 1_000_000),
)


def mistaken_unit(value: int, first_ms: int, last_ms: int) -> str | None:
    """Return the unit in which `value` is a time from `first_ms` to `last_ms`, milliseconds since 1970.

    None where it is such a time in milliseconds already, or in no unit.
    """
    if first_ms <= value <= last_ms:
        return None
    return next(
        (unit for unit, factor, divisor in _UNITS if first_ms <= value * factor // divisor <= last_ms),
        None,
    )
