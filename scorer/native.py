"""A model by the kernels: the same numbers as `scorer.model`, of the sequence module within the rounding of a level."""

import math
from typing import NamedTuple, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from lifeline.scorer.config import WIDTH, ModelConfig
from lifeline.scorer.encoder import LOG_OLDEST, Encoder, EncoderBlock
from lifeline.scorer.features import Tokens
from lifeline.scorer.inputs import Inputs, PairInputs, Pairs
from lifeline.scorer.int8 import Calibration
from lifeline.scorer.kernels import encoder as kernels
from lifeline.scorer.kernels import heads as head_kernels
from lifeline.scorer.kernels.library import Level
from lifeline.scorer.model import TransAct
from lifeline.scorer.selection import Selection, Source

_COLUMNS_AT_ONCE = 32


class SequenceModule(Protocol):
    """Whatever does the work of a model's sequence module."""

    def parts(self, tokens: Tokens, selection: Selection, candidates: NDArray[np.int8], asked_ms: int) -> list[Tensor]:
        """Return what `TransAct.sequence` gives for int8[c, 32] candidates; the selection is by rows of the tokens."""


class NativeSequence(NamedTuple):
    """A model's sequence module, prepared for one level."""

    encoder: kernels.Encoder
    config: ModelConfig
    threads: int | None
    """Of a request; None: as many as torch has."""

    @classmethod
    def of(
        cls, model: TransAct, level: Level, threads: int | None = None, calibration: Calibration | None = None
    ) -> Self | None:
        """Prepare a model; None where PyTorch is to do it: for another encoder, or a wider read-out.

        The level tells the precision as well: BF16 has products of bfloat16, INT8, which needs a calibration, of int8
        but for the read-out, the others of float32.
        """
        if level is Level.TORCH or not isinstance(model.encoder, Encoder) or model.config.read_out > WIDTH:
            return None
        with torch.inference_mode():
            weights = encoder_weights(model, model.encoder)
            if calibration is not None:
                weights |= _calibrated(calibration, weights["widen"].shape[2])
        scale = model.encoder.tokens.input_scale
        return cls(kernels.Encoder(weights, input_scale=scale, age_span=LOG_OLDEST, level=level), model.config, threads)

    def parts(self, tokens: Tokens, selection: Selection, candidates: NDArray[np.int8], asked_ms: int) -> list[Tensor]:
        """Return what `TransAct.sequence` gives for int8[c, 32] candidates; the selection is by rows of the tokens."""
        newest = self.config.newest_outputs
        columns = kernels.TokenColumns(tokens.embedding, tokens.action_types, tokens.surface, tokens.timestamp_ms)
        read_out, outputs = self.encoder.encode(
            columns,
            asked_ms,
            candidates,
            selection,
            outputs=newest > 0,
            threads=self.threads or torch.get_num_threads(),
        )
        parts = [torch.from_numpy(read_out[:, : self.config.read_out])]
        if outputs is not None:
            parts.append(torch.from_numpy(newest_outputs(outputs, selection.source == Source.RECENT, newest)))
        return parts


class NativeHeads(NamedTuple):
    """A model's cross and heads, prepared for one level."""

    kernel: head_kernels.Heads
    threads: int | None
    """Of a request; None: as many as torch has."""

    @classmethod
    def of(cls, model: TransAct, level: Level, threads: int | None = None) -> Self | None:
        """Prepare a model; None where PyTorch is to do it."""
        if level is Level.TORCH:
            return None
        cross, mlp = (
            [_linear(layer) for layer in layers.modules() if isinstance(layer, nn.Linear)]
            for layers in (model.cross, model.mlp)
        )
        # They are of float32 whatever the encoder's products are.
        return cls(head_kernels.Heads(cross, mlp, min(level, Level.AVX512)), threads)

    def logits(self, joined: Tensor) -> Tensor:
        """Return what `TransAct.heads` gives."""
        return torch.from_numpy(self.kernel.logits(joined.numpy(), self.threads or torch.get_num_threads()))


def logits(
    model: TransAct,
    native: SequenceModule | None,
    tokens: Tokens,
    selection: Selection,
    pairs: Pairs,
    heads: NativeHeads | None = None,
) -> Tensor:
    """Return float32[c, heads] logits of c pairs of one request, selected by rows of the tokens.

    What is not native PyTorch does.
    """
    if native is None:
        inputs = Inputs.of(tokens, selection, pairs)
        joined = model.joined(inputs, model.encode(inputs))
    else:
        sequence = native.parts(tokens, selection, pairs.embedding, int(pairs.timestamp_ms[0]))
        statistics = []
        if model.config.selection_statistics != "none":
            statistics = model.statistics(Inputs.of(tokens, selection, pairs))
        joined = model.join(PairInputs.of(pairs), statistics, sequence)
    return model.heads(joined) if heads is None else heads.logits(joined)


def newest_outputs(outputs: NDArray[np.float32], recent: NDArray[np.bool_], count: int) -> NDArray[np.float32]:
    """Return the outputs of the newest recent tokens, newest first, as float32[c, count * 64]; zeros for none."""
    rank = recent[:, ::-1].cumsum(axis=1)[:, ::-1] * recent
    made = np.zeros((len(outputs), count, WIDTH), np.float32)
    row, column = np.nonzero((rank > 0) & (rank <= count))
    made[row, rank[row, column] - 1] = outputs[row, column]
    return made.reshape(len(outputs), count * WIDTH)


def encoder_weights(model: TransAct, encoder: Encoder) -> dict[str, NDArray[np.float32]]:
    """Return the arrays of `scorer.kernels.encoder.WEIGHTS`; matrices are [in][out], layer by layer."""
    tokens = encoder.tokens
    blocks = [block for block in encoder.blocks if isinstance(block, EncoderBlock)]
    read_out = np.zeros((WIDTH, WIDTH), np.float32)
    read_out[:, : model.config.read_out] = model.read_out.weight.numpy().T
    bias = np.zeros(WIDTH, np.float32)
    bias[: model.config.read_out] = model.read_out.bias.numpy()
    nothing = np.zeros((0, WIDTH), np.float32)
    return {
        "action": tokens.action.numpy(),
        "surface": tokens.surface.numpy(),
        "position": tokens.position.numpy(),
        "similarity": nothing if tokens.similarity is None else tokens.similarity.numpy(),
        "age": nothing if tokens.age is None else tokens.age.numpy(),
        # q . k / sqrt(d) = (x Q) . (y K) / 8 = x (Q K^T) . y / 8, and softmax is taken with powers of two.
        "match": np.stack([_match(block) for block in blocks]),
        "value": np.stack([block.value.weight.numpy().T for block in blocks]),
        "widen": np.stack([_padded(block.widen.weight.numpy().T, axis=1) for block in blocks]),
        "narrow": np.stack([_padded(block.narrow.weight.numpy().T, axis=0) for block in blocks]),
        "read_out": read_out,
        "read_out_bias": bias,
    }


def _linear(layer: nn.Linear) -> head_kernels.Linear:
    return head_kernels.Linear(layer.weight.detach().numpy().T, layer.bias.detach().numpy())


def _calibrated(calibration: Calibration, ffn: int) -> dict[str, NDArray[np.float32]]:
    """Return the arrays of `scorer.kernels.encoder.CALIBRATION`."""
    wide = torch.stack(calibration.wide)
    return {
        "inputs": torch.stack(calibration.inputs[:-1]).numpy(),
        "middles": torch.stack(calibration.middle).numpy(),
        "values": torch.stack(calibration.values).numpy(),
        # What was put behind is zero whatever its scale.
        "wides": functional.pad(wide, (0, ffn - wide.shape[1]), value=1.0).numpy(),
    }


def _match(block: EncoderBlock) -> NDArray[np.float32]:
    query, key = (one.weight.double().numpy() for one in (block.query, block.key))
    match: NDArray[np.float64] = query.T @ key * (math.log2(math.e) / math.sqrt(WIDTH))
    # The kernels refuse what is too large to be a float32.
    with np.errstate(over="ignore"):
        return match.astype(np.float32)


def _padded(matrix: NDArray[np.float32], *, axis: int) -> NDArray[np.float32]:
    """Return a matrix with as many zeros behind it that the kernels' step divides it."""
    missing = [(0, 0), (0, 0)]
    missing[axis] = (0, -matrix.shape[axis] % _COLUMNS_AT_ONCE)
    return np.pad(matrix, missing)
