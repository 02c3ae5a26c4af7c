"""The native library: found, asked what the processor can do, and called. Calls release the interpreter's lock."""

import ctypes
import os
from enum import IntEnum
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scorer.errors import KernelsError

VARIABLE = "LIFELINE_KERNELS"
"""The environment variable that forces an implementation."""
PATH = Path(__file__).resolve().parent / "lifeline_kernels.so"
_MEMORY_SHORT = 2


class Level(IntEnum):
    """Which implementation works, each with all that those before it have; the numbers of the C ABI."""

    TORCH = 0
    AVX2 = 1
    AVX512 = 2
    BF16 = 3
    """AVX-512 with VNNI and BF16."""


class _Selection(ctypes.Structure):
    """`lifeline_selection` of src/kernels.h."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("explicit_rows", "impression_rows", "candidates")),
        *(
            (name, ctypes.c_int64)
            for name in ("explicit_count", "impression_count", "candidate_count", "real_time_from")
        ),
        *(
            (name, ctypes.c_int32)
            for name in ("lifelong_selected", "recent_kept", "real_time_selected", "impressions_selected")
        ),
        *((name, ctypes.c_void_p) for name in ("index", "similarity", "source", "valid")),
    )


class Selected:
    """Room for S_all of c candidates: int64, float32, uint8 and bool of [c, L], as `scorer.selection.Selection`."""

    __slots__ = ("index", "similarity", "source", "valid")

    def __init__(self, candidates: int, length: int) -> None:
        shape = (candidates, length)
        self.index: NDArray[np.int64] = np.empty(shape, np.int64)
        self.similarity: NDArray[np.float32] = np.empty(shape, np.float32)
        self.source: NDArray[np.uint8] = np.empty(shape, np.uint8)
        self.valid: NDArray[np.bool_] = np.empty(shape, np.bool_)


@cache
def best_level() -> Level:
    """Return what this machine can do: TORCH where the library was not built."""
    library = _library()
    return Level.TORCH if library is None else Level(library.lifeline_level())


def chosen_level() -> Level:
    """Return what LIFELINE_KERNELS forces, or else the best; raises KernelsError where that cannot be had."""
    asked = os.environ.get(VARIABLE, "").upper()
    if not asked:
        return best_level()
    if asked not in Level.__members__:
        names = ", ".join(level.name.lower() for level in Level)
        raise KernelsError(f"{VARIABLE} is {asked.lower()!r}: set it to one of {names}, or not at all")
    level = Level[asked]
    if level > best_level():
        has = best_level().name.lower()
        why = "was not built with the kernels" if _library() is None else "runs on a processor without them"
        raise KernelsError(
            f"{VARIABLE} is {asked.lower()!r}, and this installation {why}: set it to {has}, or not at all"
        )
    return level


def select(
    explicit: NDArray[np.int8],
    impressions: NDArray[np.int8],
    candidates: NDArray[np.int8],
    real_time_from: int,
    counts: tuple[int, int, int, int],
    *,
    level: Level,
    threads: int,
) -> Selected:
    """Select from int8[n, 32] and int8[m, 32] tokens for int8[c, 32] candidates.

    `counts` are lifelong_selected, recent_kept, real_time_selected and impressions_selected. Raises KernelsError where
    the processor lacks the level, and MemoryError.
    """
    library = _library()
    if library is None:
        raise KernelsError("the kernels were not built: install the package where there is a C++ compiler")
    rows = [np.ascontiguousarray(side) for side in (explicit, impressions, candidates)]
    found = Selected(len(candidates), sum(counts))
    job = _Selection(
        *(side.ctypes.data for side in rows),
        *(len(side) for side in rows),
        real_time_from,
        *counts,
        *(column.ctypes.data for column in (found.index, found.similarity, found.source, found.valid)),
    )
    _check(library.lifeline_select(ctypes.byref(job), int(level), threads), level)
    return found


def _check(status: int, level: Level) -> None:
    if status == _MEMORY_SHORT:
        raise MemoryError("the kernels could not get the memory they need: score fewer candidates at once")
    if status:
        raise KernelsError(f"this processor has no {level.name.lower()}: leave {VARIABLE} unset")


@cache
def _library() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL(str(PATH))
    except OSError:
        return None
    library.lifeline_level.restype = library.lifeline_select.restype = ctypes.c_int32
    library.lifeline_select.argtypes = (ctypes.POINTER(_Selection), ctypes.c_int32, ctypes.c_int32)
    return library
