"""The C library's allocator, told to keep what a process frees.

Training frees and takes the same large blocks at every operation, and to get them from the kernel anew, page by page,
takes two fifths of its time.
"""

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_MOST = (1 << 31) - 1


def keep_memory() -> bool:
    """Keep freed memory for the rest of the process; False where the C library has no such setting (only glibc has)."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, _MOST))
