"""The CPU backend: selection, encoder and heads by the kernels of an instruction set.

Its selections equal PyTorch's to the bit, and its logits equal them within the rounding of the precision.
"""

from typing import NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from lifeline.scorer.config import ModelConfig
from lifeline.scorer.encoder import LOG_OLDEST, Encoder
from lifeline.scorer.features import History, Tokens
from lifeline.scorer.inputs import Pairs
from lifeline.scorer.int8 import Calibration
from lifeline.scorer.kernels import encoder as kernels
from lifeline.scorer.kernels import heads as head_kernels
from lifeline.scorer.kernels.instruction_set import InstructionSet
from lifeline.scorer.model import TransAct
from lifeline.scorer.precision import Precision
from lifeline.scorer.selection import Selection, Source, check_candidates, check_selection, select
from lifeline.scorer.sequence_encoder import cross_input, encoder_weights, is_supported, newest_outputs


class CpuBackend:
    """A `Backend` of the CPU kernels; PyTorch encodes for models that the kernels do not support."""

    def __init__(
        self,
        model: TransAct,
        instruction_set: InstructionSet,
        precision: Precision = Precision.FLOAT32,
        threads: int | None = None,
        calibration: Calibration | None = None,
    ) -> None:
        """Prepare a model; `threads` is the number of threads for a request, by default as many as torch has.

        If the instruction set does not support the precision, float32 is used. int8 needs a calibration. Raises
        KernelsError if the processor lacks the instruction set.
        """
        precision = supported_precision(precision, instruction_set)
        self._model, self._instruction_set, self._threads = model, instruction_set, threads
        self._encoder = CpuEncoder.of(model, instruction_set, precision, threads, calibration)
        self._heads = CpuHeads.of(model, instruction_set, threads)
        self.name = "torch" if self._encoder is None else _label(instruction_set, precision)

    def select(self, history: History, candidates: NDArray[np.int8]) -> Selection:
        """Implement `Backend.select`."""
        return select(
            history, candidates, self._model.config, instruction_set=self._instruction_set, threads=self._threads
        )

    def logits(self, tokens: Tokens, selection: Selection, pairs: Pairs) -> Tensor:
        """Implement `Backend.logits`."""
        if self._encoder is None:
            # The kernels' encoder checks its own inputs.
            check_candidates(pairs.embedding)
            check_selection(selection, len(tokens))
        return self._heads.logits(cross_input(self._model, self._encoder, tokens, selection, pairs))


class CpuEncoder(NamedTuple):
    """A `SequenceEncoder` of the CPU kernels."""

    encoder: kernels.Encoder
    config: ModelConfig
    threads: int | None
    """Threads for a request; None: as many as torch has."""

    @classmethod
    def of(
        cls,
        model: TransAct,
        instruction_set: InstructionSet,
        precision: Precision,
        threads: int | None = None,
        calibration: Calibration | None = None,
    ) -> Self | None:
        """Prepare a model; None if the kernels do not support it. int8 needs a calibration."""
        if not isinstance(model.encoder, Encoder) or not is_supported(model):
            return None
        with torch.inference_mode():
            weights = encoder_weights(model, model.encoder)
            if precision is Precision.INT8 and calibration is not None:
                weights |= _scales(calibration, weights["widen"].shape[2])
        encoder = kernels.Encoder(
            weights,
            input_scale=model.encoder.tokens.input_scale,
            age_span=LOG_OLDEST,
            instruction_set=instruction_set,
            precision=precision,
        )
        return cls(encoder, model.config, threads)

    def parts(
        self, tokens: Tokens, selection: Selection, candidates: NDArray[np.int8], request_ms: int
    ) -> list[Tensor]:
        """Implement `SequenceEncoder.parts`."""
        newest = self.config.newest_outputs
        columns = kernels.TokenColumns(tokens.embedding, tokens.action_types, tokens.surface, tokens.timestamp_ms)
        read_out, outputs = self.encoder.encode(
            columns,
            request_ms,
            candidates,
            selection,
            outputs=newest > 0,
            threads=self.threads or torch.get_num_threads(),
        )
        parts = [torch.from_numpy(read_out[:, : self.config.read_out])]
        if outputs is not None:
            parts.append(torch.from_numpy(newest_outputs(outputs, selection.source == Source.RECENT, newest)))
        return parts


class CpuHeads(NamedTuple):
    """The cross and the heads of a model by the CPU kernels, in float32."""

    kernel: head_kernels.Heads
    threads: int | None
    """Threads for a request; None: as many as torch has."""

    @classmethod
    def of(cls, model: TransAct, instruction_set: InstructionSet, threads: int | None = None) -> Self:
        """Prepare a model."""
        cross, mlp = (
            [_linear(layer) for layer in layers.modules() if isinstance(layer, nn.Linear)]
            for layers in (model.cross, model.mlp)
        )
        return cls(head_kernels.Heads(cross, mlp, instruction_set), threads)

    def logits(self, joined: Tensor) -> Tensor:
        """Return the logits of `TransAct.heads`, float32[c, heads]."""
        return torch.from_numpy(self.kernel.logits(joined.numpy(), self.threads or torch.get_num_threads()))


def supported_precision(precision: Precision, instruction_set: InstructionSet) -> Precision:
    """Return the precision, or float32 if the instruction set does not support it."""
    return precision if instruction_set >= InstructionSet.AVX512_BF16 else Precision.FLOAT32


def _label(instruction_set: InstructionSet, precision: Precision) -> str:
    match precision:
        case Precision.INT8:
            return "int8"
        case Precision.BFLOAT16:
            return InstructionSet.AVX512_BF16.label
        case Precision.FLOAT32:
            return min(instruction_set, InstructionSet.AVX512).label


def _linear(layer: nn.Linear) -> head_kernels.Linear:
    return head_kernels.Linear(layer.weight.detach().numpy().T, layer.bias.detach().numpy())


def _scales(calibration: Calibration, ffn: int) -> dict[str, NDArray[np.float32]]:
    """Return the arrays of `scorer.kernels.encoder.CALIBRATION`."""
    wide = torch.stack(calibration.wide)
    return {
        "inputs": torch.stack(calibration.inputs[:-1]).numpy(),
        "middles": torch.stack(calibration.middle).numpy(),
        "values": torch.stack(calibration.values).numpy(),
        # Padding is zero at any scale.
        "wides": functional.pad(wide, (0, ffn - wide.shape[1]), value=1.0).numpy(),
    }
