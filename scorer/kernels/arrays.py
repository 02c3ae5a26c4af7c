"""Checks of arrays before they are passed to C++.

For a request's arrays, only dtype and shape are checked here; the kernels check each index against its bound. For a
model's arrays, which are prepared once, every number is checked.
"""

from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from lifeline.scorer.errors import KernelInputError

_T = TypeVar("_T", bound=np.generic)


def check_array(name: str, array: NDArray[Any], dtype: type[_T], *shape: int | None) -> NDArray[_T]:
    """Return a contiguous and aligned array of this dtype and shape; `None` in the shape is any length.

    Raises KernelInputError if the dtype or the shape differs.
    """
    if (
        array.dtype != dtype
        or array.ndim != len(shape)
        or any(expected is not None and expected != length for expected, length in zip(shape, array.shape, strict=True))
    ):
        sizes = ", ".join("n" if expected is None else str(expected) for expected in shape)
        raise KernelInputError(
            f"{name} is {array.dtype}{list(array.shape)}, and the kernels read {np.dtype(dtype)}[{sizes}]: give that"
        )
    return array if array.flags.c_contiguous and array.flags.aligned else array.copy()


def check_weights(name: str, array: NDArray[Any], *shape: int | None, positive: bool = False) -> NDArray[np.float32]:
    """Return a float32 array of a model, as `check_array` does.

    Raises KernelInputError also if a number is not finite, or with `positive` not above 0.
    """
    numbers = check_array(name, array, np.float32, *shape)
    if not np.isfinite(numbers).all():
        raise KernelInputError(f"{name} holds numbers that are not finite: use another version, or train again")
    if positive and not (numbers > 0).all():
        raise KernelInputError(f"{name} holds a scale that is not above 0: run lifeline quantize again")
    return numbers


def check_range(name: str, value: float, least: float, most: float) -> None:
    """Raise KernelInputError if a number is outside `least` to `most`."""
    if not least <= value <= most:
        raise KernelInputError(f"{name} is {value}, and the kernels take {least} to {most}: give one of those")
