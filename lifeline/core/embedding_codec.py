"""Item embeddings as int8: q = round_half_even(127 * e * s / 0.65), where s = min(1 / ||e||, 0.65 / max|e|).

Only the direction of an embedding is used, so its length is free: s brings it to length 1, or to what int8 can hold.
So no value is clipped, and short embeddings keep their precision.
"""

import numpy as np
from numpy.typing import NDArray

LARGEST = 0.65
"""The magnitude that is quantized to 127. The zero point is 0; -128 never occurs."""


def quantize(embedding: NDArray[np.floating | np.integer]) -> NDArray[np.int8]:
    """Return the int8 form of float[..., d] embeddings, each of any length.

    Raises ValueError where one is not finite, or is zero: it has no direction, and zeros mean that there is none.
    """
    if not np.isfinite(embedding).all():
        raise ValueError("an embedding has a number that is not finite: publish finite numbers only")
    values = embedding.astype(np.float64)
    largest = np.abs(values).max(axis=-1, keepdims=True, initial=0.0)
    if not largest.all():
        raise ValueError("an embedding is all zeros, which means that the item has none: leave the item out")
    # Divided first, so that no square overflows or vanishes.
    values /= largest
    norm = np.sqrt(np.square(values).sum(axis=-1, keepdims=True))
    quantized: NDArray[np.int8] = np.rint(values * np.minimum(1 / norm, LARGEST) / LARGEST * 127).astype(np.int8)
    return quantized


def inverse_norm(quantized: NDArray[np.int8]) -> NDArray[np.float32]:
    """Return 1 / ||q|| of int8[n, d] rows as float32[n], correctly rounded; 0 for zero rows."""
    squares = np.square(quantized, dtype=np.int32).sum(axis=-1).astype(np.float64)
    inverse: NDArray[np.float64] = np.zeros_like(squares)
    np.divide(1.0, np.sqrt(squares), out=inverse, where=squares > 0)
    return inverse.astype(np.float32)


def normalize(quantized: NDArray[np.int8]) -> NDArray[np.float32]:
    """Return int8[n, d] rows scaled to length 1 as float32[n, d]; a zero row stays zero."""
    return quantized.astype(np.float32) * inverse_norm(quantized)[..., np.newaxis]
