"""Times, durations and sizes as text for people."""

from datetime import UTC, datetime


def utc(timestamp_ms: int) -> str:
    """Return a timestamp of the log in UTC, to the second."""
    return datetime.fromtimestamp(timestamp_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def duration(milliseconds: int) -> str:
    """Return a duration in the largest unit that fits; the sign is dropped."""
    seconds = abs(milliseconds) / 1000
    for unit, size in (("y", 31_557_600), ("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.3f} s"


def size(count: int) -> str:
    """Return a number of bytes in the largest binary unit that fits."""
    for unit, factor in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count} B"
