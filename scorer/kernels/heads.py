"""Cross and heads of the CPU kernels: from each candidate's input to its logits."""

import ctypes
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lifeline.scorer.kernels import abi
from lifeline.scorer.kernels.arrays import check_array, check_weights
from lifeline.scorer.kernels.instruction_set import InstructionSet, unavailable_error
from lifeline.scorer.kernels.library import free_with_owner, memory_error, require_library


class Linear(NamedTuple):
    """y = x W + b."""

    matrix: NDArray[np.float32]
    """float32[in, out]."""
    bias: NDArray[np.float32]
    """float32[out]."""


class Heads:
    """Layers in float32, packed for an instruction set; safe to use from any thread."""

    def __init__(self, cross: Sequence[Linear], mlp: Sequence[Linear], instruction_set: InstructionSet) -> None:
        """Pack the layers of the cross, each [width, width], and of the MLP after it, at least one.

        Raises KernelsError if the processor lacks the instruction set, and KernelInputError if the shapes of layers do
        not fit together, or a number is not finite.
        """
        width = mlp[0].matrix.shape[0]
        # Each layer of the MLP reads the outputs of the previous one.
        outputs = [len(layer.bias) for layer in mlp]
        shapes = [(width, width)] * len(cross) + list(zip([width, *outputs], outputs, strict=False))
        layers = [
            Linear(
                check_weights(f"the matrix of layer {number}", layer.matrix, *shape),
                check_weights(f"the bias of layer {number}", layer.bias, shape[1]),
            )
            for number, (layer, shape) in enumerate(zip((*cross, *mlp), shapes, strict=True))
        ]
        sizes = np.array(outputs, np.int32)
        matrices, biases = (
            np.array([array.ctypes.data for array in arrays], np.uintp)
            for arrays in ([layer.matrix for layer in layers], [layer.bias for layer in layers])
        )
        self.width = width
        """Width of a candidate's input."""
        self._heads = outputs[-1]
        heads = abi.Heads(self.width, len(cross), len(mlp), sizes.ctypes.data, matrices.ctypes.data, biases.ctypes.data)
        handle: int | None = require_library().lifeline_heads_new(ctypes.byref(heads), int(instruction_set))
        if handle is None:
            raise unavailable_error(instruction_set)
        self._handle = free_with_owner(self, handle, "lifeline_heads_free")

    def logits(self, inputs: NDArray[np.float32], threads: int = 1) -> NDArray[np.float32]:
        """Return float32[c, heads] of float32[c, width] inputs. Raises KernelInputError, MemoryError."""
        inputs = check_array("inputs", inputs, np.float32, None, self.width)
        logits = np.empty((len(inputs), self._heads), np.float32)
        if require_library().lifeline_logits(
            self._handle, inputs.ctypes.data, len(inputs), logits.ctypes.data, threads
        ):
            raise memory_error()
        return logits
