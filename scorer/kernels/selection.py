"""Selection of the CPU kernels, equal to `scorer.selection` to the bit."""

import ctypes

import numpy as np
from numpy.typing import NDArray

from lifeline.scorer.kernels import abi
from lifeline.scorer.kernels.arrays import check_array, check_range
from lifeline.scorer.kernels.instruction_set import InstructionSet, unavailable_error
from lifeline.scorer.kernels.library import memory_error, require_library

_CHANNELS = 32
_MAX_SELECTED = 1 << 16


class SelectionArrays:
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
) -> SelectionArrays:
    """Select from int8[n, 32] and int8[m, 32] tokens for int8[c, 32] candidates.

    `counts` are lifelong_selected, recent_kept, real_time_selected and impressions_selected. Raises KernelsError if
    the processor lacks the instruction set or the kernels were not built, KernelInputError and MemoryError.
    """
    library = require_library()
    rows = [
        check_array(name, embedding, np.int8, None, _CHANNELS)
        for name, embedding in (("explicit", explicit), ("impressions", impressions), ("candidates", candidates))
    ]
    for count in counts:
        check_range("a count of selected tokens", count, 0, _MAX_SELECTED)
    check_range("the sum of the counts", sum(counts), 1, _MAX_SELECTED)
    check_range("real_time_from", real_time_from, 0, max(0, len(explicit) - counts[1]))
    selected = SelectionArrays(len(candidates), sum(counts))
    job = abi.Selection(
        *(array.ctypes.data for array in rows),
        *(len(array) for array in rows),
        real_time_from,
        *counts,
        *(column.ctypes.data for column in (selected.index, selected.similarity, selected.source, selected.valid)),
    )
    if status := library.lifeline_select(ctypes.byref(job), int(instruction_set), threads):
        raise memory_error() if status == abi.OUT_OF_MEMORY else unavailable_error(instruction_set)
    return selected
