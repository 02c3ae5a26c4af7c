"""Selection by the kernels: what `scorer.selection` defines, to the bit."""

import ctypes

import numpy as np
from numpy.typing import NDArray

from lifeline.scorer.kernels.arrays import check_range, checked
from lifeline.scorer.kernels.library import MEMORY_SHORT, Level, lacking, loaded, memory_short

_CHANNELS = 32
_MOST = 1 << 16


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
    the processor lacks the level or nothing was built, KernelInputError and MemoryError.
    """
    library = loaded()
    rows = [
        checked(name, side, np.int8, None, _CHANNELS)
        for name, side in (("explicit", explicit), ("impressions", impressions), ("candidates", candidates))
    ]
    for count in counts:
        check_range("a count of selected tokens", count, 0, _MOST)
    check_range("the sum of the counts", sum(counts), 1, _MOST)
    check_range("real_time_from", real_time_from, 0, max(0, len(explicit) - counts[1]))
    found = Selected(len(candidates), sum(counts))
    job = _Selection(
        *(side.ctypes.data for side in rows),
        *(len(side) for side in rows),
        real_time_from,
        *counts,
        *(column.ctypes.data for column in (found.index, found.similarity, found.source, found.valid)),
    )
    if status := library.lifeline_select(ctypes.byref(job), int(level), threads):
        raise memory_short() if status == MEMORY_SHORT else lacking(level)
    return found
