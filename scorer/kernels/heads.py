"""Cross and heads by the kernels: from each candidate's input to its logits."""

import ctypes
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lifeline.scorer.kernels.arrays import checked, checked_numbers
from lifeline.scorer.kernels.library import Level, loaded, memory_short, prepare


class Linear(NamedTuple):
    """y = x W + b."""

    matrix: NDArray[np.float32]
    """float32[in, out]."""
    bias: NDArray[np.float32]
    """float32[out]."""


class _Heads(ctypes.Structure):
    """`lifeline_heads` of src/kernels.h."""

    _fields_ = (
        *((name, ctypes.c_int32) for name in ("width", "cross_layers", "mlp_layers")),
        *((name, ctypes.c_void_p) for name in ("sizes", "matrices", "biases")),
    )


class Heads:
    """Layers in the form that a level reads; `logits` may be called from any thread."""

    def __init__(self, cross: Sequence[Linear], mlp: Sequence[Linear], level: Level) -> None:
        """Prepare layers of a cross, [width, width] each, and of the MLP behind it, one at least.

        Raises KernelsError where the level cannot be had, and KernelInputError where layers do not fit each other or
        hold numbers that are not finite.
        """
        width = mlp[0].matrix.shape[0]
        # What a layer reads, and what it gives: each of the MLP reads what the one before gives.
        gives = [len(layer.bias) for layer in mlp]
        shapes = [(width, width)] * len(cross) + list(zip([width, *gives], gives, strict=False))
        layers = [
            Linear(
                checked_numbers(f"the matrix of layer {number}", layer.matrix, *shape),
                checked_numbers(f"the bias of layer {number}", layer.bias, shape[1]),
            )
            for number, (layer, shape) in enumerate(zip((*cross, *mlp), shapes, strict=True))
        ]
        sizes = np.array(gives, np.int32)
        matrices, biases = (
            np.array([array.ctypes.data for array in arrays], np.uintp)
            for arrays in ([layer.matrix for layer in layers], [layer.bias for layer in layers])
        )
        self.width = width
        """Of a candidate's input."""
        self._heads = gives[-1]
        given = _Heads(self.width, len(cross), len(mlp), sizes.ctypes.data, matrices.ctypes.data, biases.ctypes.data)
        self._made = prepare(self, "heads", given, level)

    def logits(self, inputs: NDArray[np.float32], threads: int = 1) -> NDArray[np.float32]:
        """Return float32[c, heads] of float32[c, width] inputs. Raises KernelInputError, MemoryError."""
        inputs = checked("inputs", inputs, np.float32, None, self.width)
        made = np.empty((len(inputs), self._heads), np.float32)
        if loaded().lifeline_logits(self._made, inputs.ctypes.data, len(inputs), made.ctypes.data, threads):
            raise memory_short()
        return made
