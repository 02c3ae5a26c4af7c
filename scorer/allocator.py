"""The C library's allocator, told what suits a process: only glibc has these settings.

Training frees and takes the same large blocks at every operation, and to get them from the kernel anew, page by page,
takes two fifths of its time. A node has many threads, and glibc gives them up to eight heaps a processor, each of which
holds on to what the largest request took: under load that is a quarter of the node's memory.
"""

import ctypes
import os

_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8
_MOST = (1 << 31) - 1


def keep_memory() -> bool:
    """Keep freed memory for the rest of the process; False where the C library has no such setting."""
    return _set(_M_MMAP_MAX, 0) and _set(_M_TRIM_THRESHOLD, _MOST)


def share_heaps() -> bool:
    """Let threads that are yet to come share one heap a processor, unless MALLOC_ARENA_MAX says how many.

    Returns False where the C library has no such setting.
    """
    return "MALLOC_ARENA_MAX" not in os.environ and _set(_M_ARENA_MAX, os.cpu_count() or 1)


def _set(parameter: int, value: int) -> bool:
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(parameter, value))
