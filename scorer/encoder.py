"""Encoders map selected tokens and a candidate to one output per token.

`Encoder` is that of TransActV2: the candidate is concatenated to every token, and attention is causal with one head.
Unpublished options add embeddings of a token's similarity and age, interpolated between knots, and initialize the first
layer's attention to match candidate and token.

`BehaviorEncoder` is that of the Behavior Sequence Transformer (Chen et al., 2019): the candidate is the first token of
the sequence, and attention is bidirectional.
"""

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from lifeline.core.sequence import EMBEDDING_DIM
from lifeline.core.vocabulary import MAX_ACTION_TYPES, MAX_SURFACES
from lifeline.scorer.config import WIDTH, ModelConfig
from lifeline.scorer.inputs import Inputs

LOG_OLDEST = 21.0
"""Logarithm of about forty years in seconds: the last knot of an age."""
_MATCHING_LOGIT = 8.0
"""The initial attention logit of a token that equals the candidate, above that of an orthogonal token."""


class EncoderBlock(nn.Module):
    """One post-norm transformer block with a single head: float32[b, L, 64] to the same shape.

    Without a mask it is causal. That also hides padding from valid tokens, because padding is on the right.
    """

    def __init__(self, ffn: int) -> None:
        super().__init__()
        self.query = nn.Linear(WIDTH, WIDTH, bias=False)
        self.key = nn.Linear(WIDTH, WIDTH, bias=False)
        self.value = nn.Linear(WIDTH, WIDTH, bias=False)
        self.widen = nn.Linear(WIDTH, ffn, bias=False)
        self.narrow = nn.Linear(ffn, WIDTH, bias=False)
        self.uses_bfloat16 = False
        """Whether training computes causal products in bfloat16; residuals stay float32."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the block's outputs; `mask`, bool[b, 1, L], is True for the tokens that are attended to."""
        if self.uses_bfloat16 and mask is None:
            return self._forward_bfloat16(x)
        attended = functional.scaled_dot_product_attention(
            self.query(x), self.key(x), self.value(x), attn_mask=mask, is_causal=mask is None
        )
        y = functional.layer_norm(x + attended, (WIDTH,))
        return functional.layer_norm(y + self.narrow(functional.relu(self.widen(y))), (WIDTH,))

    def _forward_bfloat16(self, x: Tensor) -> Tensor:
        # Plain matrix products: with gradients they are twice as fast as PyTorch's attention, in either precision, on
        # processors with bfloat16 products.
        low = torch.bfloat16
        weights = torch.cat([self.query.weight / math.sqrt(WIDTH), self.key.weight, self.value.weight])
        query, key, value = functional.linear(x.to(low), weights.to(low)).chunk(3, dim=-1)
        hidden = torch.full((x.shape[1], x.shape[1]), -torch.inf, dtype=low).triu(1)
        score = torch.baddbmm(hidden.expand(len(x), -1, -1), query, key.transpose(1, 2))
        y = functional.layer_norm(x + torch.bmm(score.softmax(dim=-1), value), (WIDTH,))
        wide = functional.relu(functional.linear(y.to(low), self.widen.weight.to(low)))
        return functional.layer_norm(y + functional.linear(wide, self.narrow.weight.to(low)), (WIDTH,))


class TokenEmbedding(nn.Module):
    """E_item + E_action + E_surface + E_position of the selected tokens, and optionally of similarity and age."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.input_scale = config.input_scale
        self.action = nn.Parameter(torch.empty(MAX_ACTION_TYPES, WIDTH))
        self.surface = nn.Parameter(torch.empty(MAX_SURFACES, WIDTH))
        self.position = nn.Parameter(torch.empty(config.selection_length, WIDTH))
        self.similarity = _knots(config.similarity_buckets)
        self.age = _knots(config.age_buckets)

    def table(self, embedding: Tensor, action_types: Tensor, surface: Tensor) -> Tensor:
        """Return float32[n + 1, 64] of n tokens, as in `Inputs`; the item's embedding is in the first half.

        The last row is the neutral token: it has only surface 0, "unknown".
        """
        bits = action_types[:, None] >> torch.arange(MAX_ACTION_TYPES, device=action_types.device) & 1
        tokens = bits.float() @ self.action + functional.embedding(surface, self.surface)
        tokens = tokens + functional.pad(embedding * self.input_scale, (0, EMBEDDING_DIM))
        return torch.cat([tokens, self.surface[:1]])

    def age_embedding(self, age_s: Tensor) -> Tensor | None:
        """Return the embedding of ages, float32[...] seconds, as float32[..., 64]; None if the model has none."""
        return None if self.age is None else _interpolate(age_s.log1p() / LOG_OLDEST, self.age)

    def forward(self, inputs: Inputs) -> Tensor:
        """Return float32[b, L, 64]."""
        tokens = self.table(inputs.embedding, inputs.action_types, inputs.surface)
        x = functional.embedding(inputs.index.remainder(len(tokens)), tokens) + self.position[: inputs.index.shape[1]]
        if self.similarity is not None:
            x = x + _interpolate((inputs.similarity + 1) / 2, self.similarity)
        age = self.age_embedding(inputs.age_s)
        return x if age is None else x + age


class Encoder(nn.Module):
    """TransActV2's sequence module."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.tokens = TokenEmbedding(config)
        self.blocks = nn.Sequential(*(EncoderBlock(config.ffn) for _ in range(config.layers)))

    def forward(self, inputs: Inputs) -> Tensor:
        """Return float32[b, L, 64]: the outputs of the last block."""
        encoded: Tensor = self.blocks(self.embed(inputs))
        return encoded

    def embed(self, inputs: Inputs) -> Tensor:
        """Return float32[b, L, 64]: the inputs of the first block; the candidate is in the second half."""
        candidate = functional.pad(inputs.candidate * self.tokens.input_scale, (EMBEDDING_DIM, 0))
        tokens: Tensor = self.tokens(inputs)
        return tokens + candidate[:, None]

    def init_matching(self) -> None:
        """Add the match of candidate and token to the first layer's attention."""
        block = cast("EncoderBlock", self.blocks[0])
        gain = math.sqrt(_MATCHING_LOGIT * math.sqrt(WIDTH)) / self.tokens.input_scale
        with torch.no_grad():
            block.query.weight[:EMBEDDING_DIM, EMBEDDING_DIM:] += gain * torch.eye(EMBEDDING_DIM)
            block.key.weight[:EMBEDDING_DIM, :EMBEDDING_DIM] += gain * torch.eye(EMBEDDING_DIM)


class BehaviorEncoder(nn.Module):
    """The Behavior Sequence Transformer's sequence module."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.tokens = TokenEmbedding(config)
        self.candidate = nn.Parameter(torch.empty(1, WIDTH))
        self.blocks = nn.ModuleList(EncoderBlock(config.ffn) for _ in range(config.layers))

    def forward(self, inputs: Inputs) -> Tensor:
        """Return float32[b, 1 + L, 64]: the candidate's output and that of each token."""
        candidate = functional.pad(inputs.candidate * self.tokens.input_scale, (0, EMBEDDING_DIM)) + self.candidate
        x = torch.cat([candidate[:, None], self.tokens(inputs)], dim=1)
        mask = functional.pad(inputs.valid, (1, 0), value=True)[:, None]
        for block in self.blocks:
            x = block(x, mask)
        return x


def _knots(count: int) -> nn.Parameter | None:
    return nn.Parameter(torch.empty(count, WIDTH)) if count else None


def _interpolate(place: Tensor, knots: Tensor) -> Tensor:
    """Return float32[..., 64]: knots interpolated at each place; 0 is the first knot, 1 the last."""
    at = place.clamp(0, 1)[..., None] * (len(knots) - 1)
    return functional.relu(1 - (at - torch.arange(len(knots), device=at.device)).abs()) @ knots
