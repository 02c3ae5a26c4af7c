"""TransActV2 in plain PyTorch, float32: the reference that every faster form is tested against.

For each candidate c, with its selected tokens S_all (L of them) and d = 64 channels:

    F      = concat(E_item(S_all), e_c) + E_action + E_surface + E_position
    block:   y = LN(x + Attn(x Q, x K, x V));  out = LN(y + W2 relu(W1 y))        (causal, one head)
    s      = max over valid tokens of (read-out of the last block's outputs)
    logits = MLP(Cross([s, e_c, context]))                                        (one a head)

LN has no affine part and eps 1e-5; Q, K, V, W1 and W2 have no bias; there is no output projection and no
dropout. Cross is the full-rank DCN v2: x_{l+1} = x_0 * (W_l x_l + b_l) + x_l. All weights start
Xavier-uniform, all biases at zero, and so does the request's surface, which a history may never name.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from scorer.config import WIDTH, ModelConfig
from scorer.features import Tokens
from scorer.quantise import normalise
from scorer.selection import Selection, Source
from store.sequence import EMBEDDING_DIM
from store.vocabulary import MAX_ACTION_TYPES, MAX_SURFACES

SURFACE_CHANNELS = 8
"""Channels of the request's surface among the context features."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """What the model reads for b (request, candidate) pairs over one table of n tokens."""

    embedding: Tensor
    """float32[n, 32]: L2-normalised item embeddings of the tokens; zeros where unknown."""
    action_types: Tensor
    """int64[n]: bit `id - 1` for each action type of the token."""
    surface: Tensor
    """int64[n]: the surface of the token."""
    index: Tensor
    """int64[b, L]: the selected tokens; -1 is the neutral token, and padding."""
    valid: Tensor
    """bool[b, L]: not padding. Padding stands on the right and position 0 is valid."""
    recent: Tensor
    """bool[b, L]: the token is one of the newest real-time tokens."""
    candidate: Tensor
    """float32[b, 32]: L2-normalised embedding of the candidate; zeros where unknown."""
    context: Tensor
    """float32[b, ModelConfig.context_features]: as `scorer.features.context` gives them."""
    context_surface: Tensor
    """int64[b]: where the candidate will be shown."""

    @classmethod
    def of(
        cls,
        tokens: Tokens,
        selection: Selection,
        candidates: NDArray[np.int8],
        context: NDArray[np.float32],
        context_surface: NDArray[np.uint8],
    ) -> Self:
        """Return the model's form of what `scorer.features` and `scorer.selection` give."""
        return cls(
            embedding=torch.from_numpy(normalise(tokens.embedding)),
            action_types=torch.from_numpy(tokens.action_types.view(np.int64)),
            surface=torch.from_numpy(tokens.surface.astype(np.int64)),
            index=torch.from_numpy(selection.index),
            valid=torch.from_numpy(selection.valid),
            recent=torch.from_numpy(selection.source == Source.RECENT),
            candidate=torch.from_numpy(normalise(candidates)),
            context=torch.from_numpy(context),
            context_surface=torch.from_numpy(context_surface.astype(np.int64)),
        )


class EncoderBlock(nn.Module):
    """One post-norm transformer block with a single causal head: float32[b, L, 64] to the same shape.

    Padding on the right is after every valid token, so the causal mask alone keeps it from all of them.
    """

    def __init__(self, ffn: int) -> None:
        super().__init__()
        self.query = nn.Linear(WIDTH, WIDTH, bias=False)
        self.key = nn.Linear(WIDTH, WIDTH, bias=False)
        self.value = nn.Linear(WIDTH, WIDTH, bias=False)
        self.widen = nn.Linear(WIDTH, ffn, bias=False)
        self.narrow = nn.Linear(ffn, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's outputs; output i depends on inputs 0 to i alone."""
        attended = functional.scaled_dot_product_attention(self.query(x), self.key(x), self.value(x), is_causal=True)
        y = functional.layer_norm(x + attended, (WIDTH,))
        return functional.layer_norm(y + self.narrow(functional.relu(self.widen(y))), (WIDTH,))


class Encoder(nn.Module):
    """The sequence module: selected tokens and candidate to one output a token."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.input_scale = config.input_scale
        self.action = nn.Parameter(torch.empty(MAX_ACTION_TYPES, WIDTH))
        self.surface = nn.Parameter(torch.empty(MAX_SURFACES, WIDTH))
        self.position = nn.Parameter(torch.empty(config.selected, WIDTH))
        self.blocks = nn.Sequential(*(EncoderBlock(config.ffn) for _ in range(config.layers)))

    def forward(self, inputs: Inputs) -> Tensor:
        """Return float32[b, L, 64]: what the last block gives for each token."""
        bits = inputs.action_types[:, None] >> torch.arange(MAX_ACTION_TYPES) & 1
        tokens = bits.float() @ self.action + functional.embedding(inputs.surface, self.surface)
        tokens = tokens + functional.pad(inputs.embedding * self.input_scale, (0, EMBEDDING_DIM))
        # The neutral token is the row behind the last: nothing but surface 0, "unknown".
        tokens = torch.cat([tokens, self.surface[:1]])
        x = functional.embedding(inputs.index.remainder(len(tokens)), tokens)
        x = x + functional.pad(inputs.candidate * self.input_scale, (EMBEDDING_DIM, 0))[:, None]
        encoded: Tensor = self.blocks(x + self.position[: x.shape[1]])
        return encoded


class CrossLayer(nn.Module):
    """One full-rank DCN v2 layer: x_0 * (W x + b) + x."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, first: Tensor, x: Tensor) -> Tensor:
        """Return float32[b, width] from the cross's input and the layer before."""
        crossed: Tensor = first * self.linear(x) + x
        return crossed


class TransAct(nn.Module):
    """TransActV2: float32[b, heads] logits of the candidates."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.read_out = nn.Linear(WIDTH, config.read_out)
        self.context_surface = nn.Parameter(torch.empty(MAX_SURFACES, SURFACE_CHANNELS))
        width = (
            config.read_out + config.newest_outputs * WIDTH + EMBEDDING_DIM + config.context_features + SURFACE_CHANNELS
        )
        self.cross = nn.ModuleList(CrossLayer(width) for _ in range(config.cross_layers))
        layers: list[nn.Module] = []
        for before, after in zip((width, *config.mlp), config.mlp, strict=False):
            layers += [nn.Linear(before, after), nn.ReLU()]
        self.mlp = nn.Sequential(*layers, nn.Linear(config.mlp[-1] if config.mlp else width, len(config.heads)))
        # Training only: what the Next Action Loss compares with item embeddings.
        self.next_action = nn.Linear(WIDTH, EMBEDDING_DIM, bias=False)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
            else:
                nn.init.zeros_(parameter)
        nn.init.zeros_(self.context_surface)

    def forward(self, inputs: Inputs) -> Tensor:
        """Return float32[b, heads] logits."""
        return self.rank(inputs, self.encoder(inputs))

    def rank(self, inputs: Inputs, encoded: Tensor) -> Tensor:
        """Return float32[b, heads] logits from the encoder's outputs."""
        read = self.read_out(encoded).masked_fill(~inputs.valid[:, :, None], -torch.inf).amax(dim=1)
        parts = [read, inputs.candidate, inputs.context, self.context_surface[inputs.context_surface]]
        if self.config.newest_outputs:
            parts.append(_newest(encoded, inputs.recent, self.config.newest_outputs))
        first = torch.cat(parts, dim=1)
        x = first
        for layer in self.cross:
            x = layer(first, x)
        logits: Tensor = self.mlp(x)
        return logits


def _newest(encoded: Tensor, recent: Tensor, count: int) -> Tensor:
    """Return the outputs of the newest `count` recent tokens, newest first, as float32[b, count * 64]."""
    rank = recent.flip(1).cumsum(1).flip(1) * recent
    outputs = [(encoded * (rank == newest)[:, :, None]).sum(dim=1) for newest in range(1, count + 1)]
    return torch.cat(outputs, dim=1)
