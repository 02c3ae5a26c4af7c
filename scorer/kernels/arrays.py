"""The gate to C++: no array passes whose dtype or shape is not what the kernels read.

Of a request's arrays that is all that is looked at here; where they hold indices, the kernels compare each with its
bound as they go by it. Of a model's arrays, which are prepared once, every number is looked at.
"""

from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from lifeline.scorer.errors import KernelInputError

_T = TypeVar("_T", bound=np.generic)


def checked(name: str, array: NDArray[Any], dtype: type[_T], *shape: int | None) -> NDArray[_T]:
    """Return an array as the kernels read it: contiguous and aligned. `None` in the shape is any length.

    Raises KernelInputError where dtype or shape are others.
    """
    if (
        array.dtype != dtype
        or array.ndim != len(shape)
        or any(wanted is not None and wanted != length for wanted, length in zip(shape, array.shape, strict=True))
    ):
        sizes = ", ".join("n" if wanted is None else str(wanted) for wanted in shape)
        raise KernelInputError(
            f"{name} is {array.dtype}{list(array.shape)}, and the kernels read {np.dtype(dtype)}[{sizes}]: give that"
        )
    return array if array.flags.c_contiguous and array.flags.aligned else array.copy()


def checked_numbers(name: str, array: NDArray[Any], *shape: int | None, positive: bool = False) -> NDArray[np.float32]:
    """Return a float32 array of a model as `checked` does.

    Raises KernelInputError also where a number is not finite, or not above 0 though it is to be positive.
    """
    found = checked(name, array, np.float32, *shape)
    if not np.isfinite(found).all():
        raise KernelInputError(f"{name} holds numbers that are not finite: use another version, or train again")
    if positive and not (found > 0).all():
        raise KernelInputError(f"{name} holds a scale that is not above 0: run lifeline quantize again")
    return found


def check_range(name: str, value: float, least: float, most: float) -> None:
    """Raise KernelInputError where a number is not from `least` to `most`."""
    if not least <= value <= most:
        raise KernelInputError(f"{name} is {value}, and the kernels take {least} to {most}: give one of those")
