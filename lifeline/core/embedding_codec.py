"""Item embeddings as int8, and back: q = clamp(round_half_even(e / 0.65 * 127), -127, 127)."""

import numpy as np
from numpy.typing import NDArray

CLIP = 0.65
"""The magnitude that is quantized to 127. The zero point is 0; -128 never occurs."""


def quantize(embedding: NDArray[np.floating]) -> NDArray[np.int8]:
    """Return float embeddings of any shape as int8; raises ValueError if a number is not finite."""
    if not np.isfinite(embedding).all():
        raise ValueError("an embedding has a number that is not finite: publish finite numbers only")
    return np.clip(np.rint(embedding.astype(np.float64) / CLIP * 127), -127, 127).astype(np.int8)


def inverse_norm(quantized: NDArray[np.int8]) -> NDArray[np.float32]:
    """Return 1 / ||q|| of int8[n, d] rows as float32[n], correctly rounded; 0 for zero rows."""
    squares = np.square(quantized, dtype=np.int32).sum(axis=-1).astype(np.float64)
    inverse: NDArray[np.float64] = np.zeros_like(squares)
    np.divide(1.0, np.sqrt(squares), out=inverse, where=squares > 0)
    return inverse.astype(np.float32)


def normalize(quantized: NDArray[np.int8]) -> NDArray[np.float32]:
    """Return int8[n, d] rows scaled to length 1 as float32[n, d]; a zero row stays zero."""
    return quantized.astype(np.float32) * inverse_norm(quantized)[..., np.newaxis]
