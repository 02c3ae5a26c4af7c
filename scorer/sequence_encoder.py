"""The sequence module as all backends see it: its interface, its weights, and the input of the cross."""

import math
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lifeline.scorer.config import WIDTH
from lifeline.scorer.encoder import Encoder, EncoderBlock
from lifeline.scorer.features import Tokens
from lifeline.scorer.inputs import Inputs, PairInputs, Pairs
from lifeline.scorer.model import TransAct
from lifeline.scorer.selection import Selection

_COLUMNS_AT_ONCE = 32


class SequenceEncoder(Protocol):
    """A model's sequence module, prepared for a device."""

    def parts(
        self, tokens: Tokens, selection: Selection, candidates: NDArray[np.int8], request_ms: int
    ) -> list[Tensor]:
        """Return the parts of `TransAct.sequence` for int8[c, 32] candidates; `selection` is by rows of `tokens`."""


def is_supported(model: TransAct) -> bool:
    """Return whether a `SequenceEncoder` can encode for the model; otherwise PyTorch does."""
    return isinstance(model.encoder, Encoder) and model.config.read_out <= WIDTH


def cross_input(
    model: TransAct, encoder: SequenceEncoder | None, tokens: Tokens, selection: Selection, pairs: Pairs
) -> Tensor:
    """Return float32[c, width], the input of the cross, of c pairs of one request; without an encoder by PyTorch."""
    if encoder is None:
        inputs = Inputs.of(tokens, selection, pairs)
        return model.cross_input(inputs, model.encode(inputs))
    parts = encoder.parts(tokens, selection, pairs.embedding, int(pairs.timestamp_ms[0]))
    statistics = []
    if model.config.selection_statistics != "none":
        statistics = model.statistics(Inputs.of(tokens, selection, pairs))
    return model.join(PairInputs.of(pairs), statistics, parts)


def newest_outputs(outputs: NDArray[np.float32], recent: NDArray[np.bool_], count: int) -> NDArray[np.float32]:
    """Return the outputs of the newest recent tokens, newest first, as float32[c, count * 64], padded with zeros."""
    rank = recent[:, ::-1].cumsum(axis=1)[:, ::-1] * recent
    newest = np.zeros((len(outputs), count, WIDTH), np.float32)
    row, column = np.nonzero((rank > 0) & (rank <= count))
    newest[row, rank[row, column] - 1] = outputs[row, column]
    return newest.reshape(len(outputs), count * WIDTH)


def encoder_weights(model: TransAct, encoder: Encoder) -> dict[str, NDArray[np.float32]]:
    """Return the arrays of `scorer.kernels.encoder.WEIGHTS`; matrices are [in][out], layer by layer."""
    tokens = encoder.tokens
    blocks = [block for block in encoder.blocks if isinstance(block, EncoderBlock)]
    read_out = np.zeros((WIDTH, WIDTH), np.float32)
    read_out[:, : model.config.read_out] = model.read_out.weight.numpy().T
    bias = np.zeros(WIDTH, np.float32)
    bias[: model.config.read_out] = model.read_out.bias.numpy()
    no_knots = np.zeros((0, WIDTH), np.float32)
    return {
        "action": tokens.action.numpy(),
        "surface": tokens.surface.numpy(),
        "position": tokens.position.numpy(),
        "similarity": no_knots if tokens.similarity is None else tokens.similarity.numpy(),
        "age": no_knots if tokens.age is None else tokens.age.numpy(),
        # q . k / sqrt(d) = (x Q) . (y K) / 8 = x (Q K^T) . y / 8, and the softmax uses powers of two.
        "match": np.stack([_match(block) for block in blocks]),
        "value": np.stack([block.value.weight.numpy().T for block in blocks]),
        "widen": np.stack([_padded(block.widen.weight.numpy().T, axis=1) for block in blocks]),
        "narrow": np.stack([_padded(block.narrow.weight.numpy().T, axis=0) for block in blocks]),
        "read_out": read_out,
        "read_out_bias": bias,
    }


def _match(block: EncoderBlock) -> NDArray[np.float32]:
    query, key = (linear.weight.double().numpy() for linear in (block.query, block.key))
    match: NDArray[np.float64] = query.T @ key * (math.log2(math.e) / math.sqrt(WIDTH))
    # The kernels refuse a number that overflows float32.
    with np.errstate(over="ignore"):
        return match.astype(np.float32)


def _padded(matrix: NDArray[np.float32], *, axis: int) -> NDArray[np.float32]:
    """Return a matrix padded with zeros to a multiple of the kernels' column step."""
    padding = [(0, 0), (0, 0)]
    padding[axis] = (0, -matrix.shape[axis] % _COLUMNS_AT_ONCE)
    return np.pad(matrix, padding)
