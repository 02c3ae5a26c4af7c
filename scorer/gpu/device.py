"""Which device does the work, and what does it there."""

from collections.abc import Callable
from importlib.util import find_spec
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from lifeline.scorer.errors import KernelsError
from lifeline.scorer.features import History
from lifeline.scorer.model import TransAct
from lifeline.scorer.native import SequenceModule
from lifeline.scorer.selection import Selection
from lifeline.scorer.settings import Device, Precision


class OnGpu(NamedTuple):
    """A model's parts on a GPU."""

    select: Callable[[History, NDArray[np.int8]], Selection]
    sequence: SequenceModule | None
    """None where PyTorch is to do it."""


def on_gpu(model: TransAct, device: Device, precision: Precision) -> OnGpu | None:
    """Prepare a model for a GPU; None where none is wanted, or there is none and `device` is auto.

    Raises KernelsError where one is asked for that is not there.
    """
    there = torch.cuda.is_available() and find_spec("triton") is not None
    if device == "cuda" and not there:
        raise KernelsError(
            "scorer.device is cuda, and this machine has no GPU that torch can use, or no Triton: set it to auto, or "
            "install the extra 'gpu' where there is one (`pip install 'lifeline-store[gpu]'`)"
        )
    if device == "cpu" or not there:
        return None
    # Where there is no GPU there need be no Triton.
    from lifeline.scorer.gpu.encoder import DeviceSequence  # noqa: PLC0415
    from lifeline.scorer.gpu.selection import Selector  # noqa: PLC0415

    gpu = torch.device("cuda")
    return OnGpu(Selector(model.config, gpu).select, DeviceSequence.of(model, gpu, precision))
