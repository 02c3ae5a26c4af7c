"""The files that a process may open: its limit, and the share of each partition.

RocksDB keeps tables open, because opening one takes longer than reading from it. A partition that may open no further
file fails, and so does a server that may accept no further connection. So the limit is raised as far as this process
may, all partitions share what it leaves, and a process that cannot work within it does not start.
"""

import errno
import os
import resource
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Self

from lifeline.store.errors import OpenFilesError

NODE_FILES = 192
"""Files of a node besides those of its partitions: 24 with one Kafka broker, measured, more brokers, and callers."""
COMMAND_FILES = 64
"""Files of a command besides those of partitions."""
PARTITION_FILES = 14
"""Files of a partition besides its tables: 9 at rest, measured, and those that it writes in the background."""
_LEAST_TABLES = 10
"""What RocksDB keeps open at least."""
_MOST_TABLES = 4_096
_RESERVED = 10
"""RocksDB keeps so many tables less open than `max_open_files` says."""
# More is of no use. Where the hard limit is unlimited, the system's own may be as low as the second.
_ENOUGH, _MODEST = 1 << 20, 10_240


class FileBudget(NamedTuple):
    """The open files of a process, and what of them each of its partitions may use."""

    limit: int
    """Files that this process may open."""
    tables: int
    """Tables that each partition keeps open."""

    @classmethod
    def of(cls, partitions: int, other_files: int = COMMAND_FILES) -> Self:
        """Raise this process's limit, and divide it by the number of partitions that may be open at the same time.

        At least a quarter of the limit, and `other_files`, are left for all else. Raises OpenFilesError if the limit
        is too low for so many partitions.
        """
        limit = raise_limit()
        needed = other_files + partitions * (PARTITION_FILES + _LEAST_TABLES)
        if needed > limit:
            raise OpenFilesError(f"{partitions} partitions", needed, limit)
        share = (limit - max(other_files, limit // 4)) // partitions - PARTITION_FILES
        return cls(limit, max(_LEAST_TABLES, min(_MOST_TABLES, share)))

    @property
    def max_open_files(self) -> int:
        """RocksDB's option of this name, for each partition."""
        return self.tables + _RESERVED


def raise_limit() -> int:
    """Raise the soft limit of open files to the hard one, as far as the system allows; return the soft limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # An unlimited one is -1.
    for wanted in (_ENOUGH, _MODEST):
        target = wanted if hard < 0 else min(hard, wanted)
        if soft < 0 or soft >= target:
            break
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))
            return target
    return _ENOUGH if soft < 0 else soft


def check_tables(paths: list[Path]) -> None:
    """Raise OpenFilesError if this process may not open every table of these partitions at the same time."""
    tables = sum(1 for path in paths for _ in path.glob("*.sst"))
    needed, limit = COMMAND_FILES + len(paths) * PARTITION_FILES + tables, raise_limit()
    if needed > limit:
        raise OpenFilesError(f"{len(paths)} partitions with {tables:,} tables", needed, limit)


def is_limit_reached(error: BaseException) -> bool:
    """Return whether an error of RocksDB says that this process may open no further file."""
    return os.strerror(errno.EMFILE) in str(error)
