"""The GPU backend: Triton kernels select and encode, PyTorch computes cross and heads on the CPU."""

import os
from importlib.util import find_spec

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lifeline.core.scratch import cache_dir
from lifeline.scorer.errors import KernelsError
from lifeline.scorer.features import History, Tokens
from lifeline.scorer.inputs import Pairs
from lifeline.scorer.model import TransAct
from lifeline.scorer.precision import Precision
from lifeline.scorer.selection import Selection, check_candidates, check_selection
from lifeline.scorer.sequence_encoder import cross_input
from lifeline.scorer.settings import Device


class GpuBackend:
    """A `Backend` on a device; PyTorch on the CPU encodes for models that the GPU encoder does not support."""

    name = "cuda"

    def __init__(self, model: TransAct, device: torch.device, precision: Precision = Precision.FLOAT32) -> None:
        """Prepare a model; int8 is computed in bfloat16."""
        _give_triton_a_cache()
        # A machine without a GPU needs no Triton.
        from lifeline.scorer.gpu.encoder import GpuEncoder  # noqa: PLC0415
        from lifeline.scorer.gpu.selection import GpuSelector  # noqa: PLC0415

        self._model = model
        self._selector = GpuSelector(model.config, device)
        self._encoder = GpuEncoder.of(model, device, precision)

    def select(self, history: History, candidates: NDArray[np.int8]) -> Selection:
        """Implement `Backend.select`."""
        check_candidates(candidates)
        return self._selector.select(history, candidates)

    def logits(self, tokens: Tokens, selection: Selection, pairs: Pairs) -> Tensor:
        """Implement `Backend.logits`."""
        check_candidates(pairs.embedding)
        check_selection(selection, len(tokens))
        return self._model.heads(cross_input(self._model, self._encoder, tokens, selection, pairs))


def _give_triton_a_cache() -> None:
    """Have Triton keep compiled kernels in this user's cache: without a home it would write to ``./~``."""
    if not {"TRITON_HOME", "TRITON_CACHE_DIR"} & os.environ.keys():
        os.environ["TRITON_HOME"] = str(cache_dir())


def gpu_backend(model: TransAct, device: Device, precision: Precision) -> GpuBackend | None:
    """Prepare a model for the GPU; None if `device` is cpu, or if it is auto and there is no GPU.

    Raises KernelsError if `device` is cuda and there is no GPU.
    """
    is_available = torch.cuda.is_available() and find_spec("triton") is not None
    if device == "cuda" and not is_available:
        raise KernelsError(
            "scorer.device is cuda, and this machine has no GPU that torch can use, or no Triton: set it to auto, or "
            "install the GPU extra: pip install 'lifeline-store[gpu]'"
        )
    if device == "cpu" or not is_available:
        return None
    return GpuBackend(model, torch.device("cuda"), precision)
