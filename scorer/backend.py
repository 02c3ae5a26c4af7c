"""Backends select tokens and compute logits for one model: PyTorch, CPU kernels and GPU kernels agree."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lifeline.scorer.cpu_backend import CpuBackend
from lifeline.scorer.errors import PrecisionError
from lifeline.scorer.features import History, Tokens
from lifeline.scorer.gpu.backend import gpu_backend
from lifeline.scorer.inputs import Pairs
from lifeline.scorer.kernels import instruction_set
from lifeline.scorer.kernels.instruction_set import InstructionSet
from lifeline.scorer.precision import Precision
from lifeline.scorer.selection import Selection
from lifeline.scorer.settings import Device
from lifeline.scorer.torch_backend import TorchBackend
from lifeline.scorer.weights import LoadedModel


class Backend(Protocol):
    """Selects tokens and computes logits for one model; safe to use from any thread."""

    @property
    def name(self) -> str:
        """The name of the encoder: torch, avx2, avx512, bf16, int8 or cuda."""

    def select(self, history: History, candidates: NDArray[np.int8]) -> Selection:
        """Return S_all for int8[c, 32] candidates, each of length `config.selection_length`.

        Raises KernelInputError for candidates of another dtype or shape.
        """

    def logits(self, tokens: Tokens, selection: Selection, pairs: Pairs) -> Tensor:
        """Return float32[c, heads] logits of c pairs of one request, selected by rows of the tokens.

        Backends agree within the rounding of their precision. Call it in torch's inference mode. Raises
        KernelInputError for candidates of another dtype or shape, for an index outside the tokens, and for a row whose
        position 0 is not valid.
        """


def backend_of(
    loaded: LoadedModel,
    precision: Precision = Precision.FLOAT32,
    threads: int | None = None,
    device: Device = "cpu",
) -> Backend:
    """Return the fastest backend that this machine and LIFELINE_KERNELS allow.

    `threads` is the number of kernel threads for a request; None: as many as torch has. If the device or the
    instruction set does not support the precision, the next more precise one is used. Raises PrecisionError if the
    version is not accepted in int8, and KernelsError if the device, or the value of LIFELINE_KERNELS, is not available.
    """
    if precision is Precision.INT8 and loaded.calibration is None:
        raise PrecisionError(
            f"{loaded.manifest.name}/{loaded.manifest.version} is not accepted in int8: run lifeline quantize, or "
            "set scorer.precision to auto"
        )
    gpu = gpu_backend(loaded.model, device, precision)
    if gpu is not None:
        return gpu
    active = instruction_set.active()
    if active is InstructionSet.NONE:
        return TorchBackend(loaded.model)
    return CpuBackend(loaded.model, active, precision, threads, loaded.calibration)
