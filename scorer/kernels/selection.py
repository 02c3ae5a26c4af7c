"""Selection by the kernels: what `scorer.selection` defines, to the bit."""

import ctypes

import numpy as np
from numpy.typing import NDArray

from lifeline.scorer.kernels import abi
from lifeline.scorer.kernels.arrays import check_range, checked
from lifeline.scorer.kernels.instruction_set import InstructionSet, unavailable
from lifeline.scorer.kernels.library import loaded, out_of_memory

_CHANNELS = 32
_MOST = 1 << 16


class Selected:
    """S_all of c candidates: arrays of [c, L], as in `scorer.selection.Selection`."""

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
    instruction_set: InstructionSet,
    threads: int,
) -> Selected:
    """Select from int8[n, 32] and int8[m, 32] tokens for int8[c, 32] candidates.

    `counts` are lifelong_selected, recent_kept, real_time_selected and impressions_selected. Raises KernelsError where
    the processor lacks the instruction set or the kernels were not built, KernelInputError and MemoryError.
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
    selected = Selected(len(candidates), sum(counts))
    job = abi.Selection(
        *(side.ctypes.data for side in rows),
        *(len(side) for side in rows),
        real_time_from,
        *counts,
        *(column.ctypes.data for column in (selected.index, selected.similarity, selected.source, selected.valid)),
    )
    if status := library.lifeline_select(ctypes.byref(job), int(instruction_set), threads):
        raise out_of_memory() if status == abi.OUT_OF_MEMORY else unavailable(instruction_set)
    return selected
