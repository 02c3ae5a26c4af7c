"""Encoders: selected tokens and a candidate to one output a token.

`Encoder` is TransActV2's: the candidate is concatenated onto every token, attention is causal, one head. Options that
were not published add to each token what its similarity and its age are, as embeddings between whose knots is
interpolated; and let the first layer's attention start out as the match of candidate and token.

`BehaviorEncoder` is that of the Behavior Sequence Transformer (Chen et al., 2019): the candidate is a token of the
sequence, in front here, and attention goes both ways.
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
"""What attention gives a token that equals the candidate at first, above one at a right angle."""


class EncoderBlock(nn.Module):
    """One post-norm transformer block with a single head: float32[b, L, 64] to the same shape.

    Without a mask it is causal: padding on the right is after every valid token, so that alone keeps it from all of
    them.
    """

    def __init__(self, ffn: int) -> None:
        super().__init__()
        self.query = nn.Linear(WIDTH, WIDTH, bias=False)
        self.key = nn.Linear(WIDTH, WIDTH, bias=False)
        self.value = nn.Linear(WIDTH, WIDTH, bias=False)
        self.widen = nn.Linear(WIDTH, ffn, bias=False)
        self.narrow = nn.Linear(ffn, WIDTH, bias=False)
        self.reduced = False
        """Whether causal products are computed in bfloat16, in training; what is added up stays float32."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the block's outputs; `mask`, bool[b, 1, L], says which tokens all others may look at."""
        if self.reduced and mask is None:
            return self._reduced(x)
        attended = functional.scaled_dot_product_attention(
            self.query(x), self.key(x), self.value(x), attn_mask=mask, is_causal=mask is None
        )
        y = functional.layer_norm(x + attended, (WIDTH,))
        return functional.layer_norm(y + self.narrow(functional.relu(self.widen(y))), (WIDTH,))

    def _reduced(self, x: Tensor) -> Tensor:
        # By matrix products as a whole: on processors that have bfloat16 products, twice as fast with its gradient as
        # the library's attention, in either precision.
        low = torch.bfloat16
        weights = torch.cat([self.query.weight / math.sqrt(WIDTH), self.key.weight, self.value.weight])
        query, key, value = functional.linear(x.to(low), weights.to(low)).chunk(3, dim=-1)
        hidden = torch.full((x.shape[1], x.shape[1]), -torch.inf, dtype=low).triu(1)
        score = torch.baddbmm(hidden.expand(len(x), -1, -1), query, key.transpose(1, 2))
        y = functional.layer_norm(x + torch.bmm(score.softmax(dim=-1), value), (WIDTH,))
        wide = functional.relu(functional.linear(y.to(low), self.widen.weight.to(low)))
        return functional.layer_norm(y + functional.linear(wide, self.narrow.weight.to(low)), (WIDTH,))


class TokenEmbedding(nn.Module):
    """E_item + E_action + E_surface + E_position of the selected tokens, and their similarity and age as configured."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.input_scale = config.input_scale
        self.action = nn.Parameter(torch.empty(MAX_ACTION_TYPES, WIDTH))
        self.surface = nn.Parameter(torch.empty(MAX_SURFACES, WIDTH))
        self.position = nn.Parameter(torch.empty(config.selected, WIDTH))
        self.similarity = _knots(config.similarity_buckets)
        self.age = _knots(config.age_buckets)

    def table(self, embedding: Tensor, action_types: Tensor, surface: Tensor) -> Tensor:
        """Return float32[n + 1, 64] of n tokens, given as in `Inputs`; the item's embedding is in the first half.

        The row behind the last is the neutral token: nothing but surface 0, "unknown".
        """
        bits = action_types[:, None] >> torch.arange(MAX_ACTION_TYPES, device=action_types.device) & 1
        tokens = bits.float() @ self.action + functional.embedding(surface, self.surface)
        tokens = tokens + functional.pad(embedding * self.input_scale, (0, EMBEDDING_DIM))
        return torch.cat([tokens, self.surface[:1]])

    def of_age(self, age_s: Tensor) -> Tensor | None:
        """Return what float32[...] ages add, float32[..., 64]; None where a model knows none."""
        return None if self.age is None else _between(age_s.log1p() / LOG_OLDEST, self.age)

    def forward(self, inputs: Inputs) -> Tensor:
        """Return float32[b, L, 64]."""
        tokens = self.table(inputs.embedding, inputs.action_types, inputs.surface)
        x = functional.embedding(inputs.index.remainder(len(tokens)), tokens) + self.position[: inputs.index.shape[1]]
        if self.similarity is not None:
            x = x + _between((inputs.similarity + 1) / 2, self.similarity)
        aged = self.of_age(inputs.age_s)
        return x if aged is None else x + aged


class Encoder(nn.Module):
    """TransActV2's sequence module."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.tokens = TokenEmbedding(config)
        self.blocks = nn.Sequential(*(EncoderBlock(config.ffn) for _ in range(config.layers)))

    def forward(self, inputs: Inputs) -> Tensor:
        """Return float32[b, L, 64]: what the last block gives for each token."""
        encoded: Tensor = self.blocks(self.embed(inputs))
        return encoded

    def embed(self, inputs: Inputs) -> Tensor:
        """Return float32[b, L, 64]: the first block's inputs, the candidate in the second half."""
        candidate = functional.pad(inputs.candidate * self.tokens.input_scale, (EMBEDDING_DIM, 0))
        tokens: Tensor = self.tokens(inputs)
        return tokens + candidate[:, None]

    def start_matching(self) -> None:
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
        seen = functional.pad(inputs.valid, (1, 0), value=True)[:, None]
        for block in self.blocks:
            x = block(x, seen)
        return x


def _knots(count: int) -> nn.Parameter | None:
    return nn.Parameter(torch.empty(count, WIDTH)) if count else None


def _between(place: Tensor, knots: Tensor) -> Tensor:
    """Return float32[..., 64]: the knots on either side of each place (0 the first, 1 the last), by nearness."""
    at = place.clamp(0, 1)[..., None] * (len(knots) - 1)
    return functional.relu(1 - (at - torch.arange(len(knots), device=at.device)).abs()) @ knots
