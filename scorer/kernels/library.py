"""The shared library of the kernels, loaded once after a check of its ABI version. Calls release the GIL."""

import ctypes
import weakref
from functools import cache
from pathlib import Path

from lifeline.scorer.errors import KernelsError
from lifeline.scorer.kernels.abi import ABI_VERSION, declare, version_of

PATH = Path(__file__).resolve().parent / "lifeline_kernels.so"


@cache
def load() -> ctypes.CDLL | None:
    """Return the library, or None if it was not built; raises KernelsError if its ABI has another version."""
    try:
        library = ctypes.CDLL(str(PATH))
    except OSError:
        return None
    version = version_of(library)
    if version != ABI_VERSION:
        raise KernelsError(
            f"{PATH} has version {version} of the kernels' ABI, and this package calls version {ABI_VERSION}: build it "
            f"again (`python {PATH.parent / 'build.py'}` in a checkout, or install the package again), or remove it to "
            "run without kernels"
        )
    declare(library)
    return library


def require_library() -> ctypes.CDLL:
    """Return the library; raises KernelsError if it was not built."""
    library = load()
    if library is None:
        raise KernelsError("the kernels were not built: install the package where there is a C++ compiler")
    return library


def memory_error() -> MemoryError:
    """Return the error of a call with status OUT_OF_MEMORY."""
    return MemoryError("the kernels could not allocate memory: score fewer candidates at once")


def free_with_owner(owner: object, handle: int, free: str) -> int:
    """Return `handle`; the library's function `free` releases it when the owner is garbage-collected."""
    weakref.finalize(owner, getattr(require_library(), free), handle)
    return handle
