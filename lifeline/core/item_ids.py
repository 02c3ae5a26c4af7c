"""Item ids: exact unsigned 64-bit integers, from whatever a caller keeps them in."""

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_MAX = (1 << 64) - 1
_EXACT_FLOAT = 1 << 53
_ADVICE = "give integers from 0 to 2^64 - 1, as uint64 or as Python's int"


def exact_item_ids(values: "Sequence[int] | NDArray[Any]") -> NDArray[np.uint64]:
    """Return item ids as uint64[n]; raises ValueError for the first value that is no exact integer.

    A float of 2^53 or more is refused: it may stand for a neighbouring id.
    """
    array = values if isinstance(values, list | tuple) else np.asarray(values)
    if isinstance(array, np.ndarray):
        if array.ndim != 1:
            raise ValueError(f"item ids have the shape {list(array.shape)}: give one dimension")
        if array.dtype.kind == "u":
            return array.astype(np.uint64)
        if array.dtype.kind == "i":
            _refuse(array, array < 0)
            return array.astype(np.uint64)
        if array.dtype.kind == "f":
            # NaN fails every comparison.
            _refuse(array, ~((array >= 0) & (array < _EXACT_FLOAT) & (np.floor(array) == array)))
            return array.astype(np.uint64)
    return np.array([_exact(row, value) for row, value in enumerate(array)], np.uint64)


def _exact(row: int, value: object) -> int:
    if isinstance(value, float | np.floating) and 0 <= value < _EXACT_FLOAT and value.is_integer():
        return int(value)
    try:
        number = -1 if isinstance(value, bool | np.bool_) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = -1
    if not 0 <= number <= _MAX:
        raise ValueError(f"item id {row} is {value!r}: {_ADVICE}")
    return number


def _refuse(array: NDArray[Any], wrong: NDArray[np.bool_]) -> None:
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(f"item id {row} is {array[row]} in {array.dtype}: {_ADVICE}")
