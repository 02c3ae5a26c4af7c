"""Settings of glibc's allocator; other C libraries do not have them.

Training frees and allocates the same large blocks at every operation. Getting them from the kernel again, page by page,
takes two fifths of its time. A node has many threads, for which glibc creates up to eight heaps per processor. Each
heap keeps the memory of its largest request: under load that is a quarter of the node's memory.
"""

import ctypes
import os

_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8
_MAX_INT = (1 << 31) - 1


def keep_memory() -> bool:
    """Keep freed memory in the process; returns False if the C library has no such setting."""
    return _set(_M_MMAP_MAX, 0) and _set(_M_TRIM_THRESHOLD, _MAX_INT)


def share_heaps() -> bool:
    """Limit the heaps of later threads to one per processor, unless MALLOC_ARENA_MAX is set.

    Returns False if the limit is not set.
    """
    return "MALLOC_ARENA_MAX" not in os.environ and _set(_M_ARENA_MAX, os.cpu_count() or 1)


def _set(parameter: int, value: int) -> bool:
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(parameter, value))
