"""Item embeddings as int8, and back: q = clamp(round_half_even(e / 0.65 * 127), -127, 127)."""

import numpy as np
from numpy.typing import NDArray

CLIP = 0.65
"""The magnitude that 127 stands for; the zero point is 0, and -128 never occurs."""


def quantize(embedding: NDArray[np.floating]) -> NDArray[np.int8]:
    """Return the int8 form of float embeddings of any shape; raises ValueError where one is not finite."""
    if not np.isfinite(embedding).all():
        raise ValueError("an embedding is not finite: publish finite numbers only")
    return np.clip(np.rint(embedding.astype(np.float64) / CLIP * 127), -127, 127).astype(np.int8)


def inverse_norm(quantized: NDArray[np.int8]) -> NDArray[np.float32]:
    """Return 1 / ||q|| of int8[n, d] rows as float32[n], the nearest to the exact value; 0 for zero rows."""
    squares = np.square(quantized, dtype=np.int32).sum(axis=-1).astype(np.float64)
    inverse: NDArray[np.float64] = np.zeros_like(squares)
    np.divide(1.0, np.sqrt(squares), out=inverse, where=squares > 0)
    return inverse.astype(np.float32)


def normalize(quantized: NDArray[np.int8]) -> NDArray[np.float32]:
    """Return int8[n, d] rows at length 1 as float32[n, d]: the scale cancels. A zero row stays zero."""
    return quantized.astype(np.float32) * inverse_norm(quantized)[..., np.newaxis]
