"""TransActV2 in plain PyTorch, float32: the reference that every faster form is tested against.

For each candidate c, with its selected tokens S_all (L of them) and d = 64 channels:

    F      = concat(E_item(S_all), e_c) + E_action + E_surface + E_position
    block:   y = LN(x + Attn(x Q, x K, x V));  out = LN(y + W2 relu(W1 y))        (causal, one head)
    s      = max over valid tokens of (read-out of the last block's outputs)
    logits = MLP(Cross([s, e_c, context]))                                        (one a head)

LN has no affine part and eps 1e-5; Q, K, V, W1 and W2 have no bias; there is no output projection and no
dropout. Cross is the full-rank DCN v2: x_{l+1} = x_0 * (W_l x_l + b_l) + x_l. All weights start
Xavier-uniform, all biases at zero, and so does the request's surface, which a history may never name.

`ModelConfig` spans the rows of the published table, and names what deviates from them (`scorer.variants`).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from lifeline.core.sequence import EMBEDDING_DIM
from lifeline.core.vocabulary import MAX_SURFACES
from lifeline.scorer.config import WIDTH, ModelConfig
from lifeline.scorer.encoder import BehaviorEncoder, Encoder, EncoderBlock
from lifeline.scorer.inputs import Inputs, PairInputs
from lifeline.scorer.selection import Source
from lifeline.scorer.selection_features import selection_statistics, statistics_count

SURFACE_CHANNELS = 8
"""Channels of the embedding of the request's surface."""


class CrossLayer(nn.Module):
    """One full-rank DCN v2 layer: x_0 * (W x + b) + x."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, first: Tensor, x: Tensor) -> Tensor:
        """Return float32[b, width] from the cross's input and the previous layer's output."""
        crossed: Tensor = first * self.linear(x) + x
        return crossed


class TransAct(nn.Module):
    """The whole model: float32[b, heads] logits of the candidates."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        width = EMBEDDING_DIM + config.context_features + SURFACE_CHANNELS
        self.encoder: Encoder | BehaviorEncoder | None = None
        if config.encoder != "none":
            self.encoder = Encoder(config) if config.encoder == "transact" else BehaviorEncoder(config)
            self.read_out = nn.Linear(WIDTH, config.read_out)
            if config.sequence_gate:
                # Initialized to zero, like all vectors: the model first learns from its other inputs.
                self.sequence_gate = nn.Parameter(torch.empty(config.read_out))
            width += config.read_out + config.newest_outputs * WIDTH
        if config.nal_weight:
            # For training only: its outputs are compared with item embeddings by the Next Action Loss.
            self.next_action = nn.Linear(WIDTH, EMBEDDING_DIM, bias=False)
        width += statistics_count(config.selection_statistics, len(config.heads))
        self.context_surface = nn.Parameter(torch.empty(MAX_SURFACES, SURFACE_CHANNELS))
        self.cross = nn.ModuleList(CrossLayer(width) for _ in range(config.cross_layers))
        layers: list[nn.Module] = []
        for before, after in zip((width, *config.mlp), config.mlp, strict=False):
            layers += [nn.Linear(before, after), nn.ReLU()]
        self.mlp = nn.Sequential(*layers, nn.Linear(config.mlp[-1] if config.mlp else width, len(config.heads)))
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
            else:
                nn.init.zeros_(parameter)
        nn.init.zeros_(self.context_surface)
        if config.matching_init and isinstance(self.encoder, Encoder):
            self.encoder.init_matching()

    def use_bfloat16(self, *, enabled: bool) -> None:
        """Compute the encoder's products in bfloat16 or in float32."""
        for module in self.modules():
            if isinstance(module, EncoderBlock):
                module.uses_bfloat16 = enabled

    def forward(self, inputs: Inputs) -> Tensor:
        """Return float32[b, heads] logits."""
        return self.rank(inputs, self.encode(inputs))

    def encode(self, inputs: Inputs) -> Tensor | None:
        """Return the encoder's outputs, float32[b, L, 64]; None without an encoder."""
        if self.encoder is None:
            return None
        encoded: Tensor = self.encoder(inputs)
        return encoded

    def rank(self, inputs: Inputs, encoded: Tensor | None) -> Tensor:
        """Return float32[b, heads] logits from the encoder's outputs."""
        return self.heads(self.cross_input(inputs, encoded))

    def cross_input(self, inputs: Inputs, encoded: Tensor | None) -> Tensor:
        """Return the input of the cross, float32[b, width]."""
        return self.join(inputs.pairs, self.statistics(inputs), self.sequence(inputs, encoded))

    def sequence(self, inputs: Inputs, encoded: Tensor | None) -> list[Tensor]:
        """Return the parts of the cross's input from the encoder: float32[b, ...]; none without an encoder."""
        if encoded is None:
            return []
        # Outputs before the tokens, the candidate of `BehaviorEncoder`, are always valid.
        valid = functional.pad(inputs.valid, (encoded.shape[1] - inputs.valid.shape[1], 0), value=True)
        parts = [self.read_out(encoded).masked_fill(~valid[:, :, None], -torch.inf).amax(dim=1)]
        if self.config.newest_outputs:
            recent = inputs.source == int(Source.RECENT)
            parts.append(_newest(encoded, recent, self.config.newest_outputs))
        return parts

    def statistics(self, inputs: Inputs) -> list[Tensor]:
        """Return the parts of the cross's input from selection statistics: float32[b, ...], or none."""
        which = self.config.selection_statistics
        return [] if which == "none" else [selection_statistics(inputs, which, self.config.heads)]

    def join(self, pairs: PairInputs, statistics: list[Tensor], sequence: list[Tensor]) -> Tensor:
        """Return the input of the cross, float32[b, width], from `statistics` and `sequence`."""
        surface = self.context_surface[pairs.context_surface]
        if sequence and self.config.sequence_gate:
            sequence = [sequence[0] * self.sequence_gate, *sequence[1:]]
        return torch.cat([*sequence[:1], pairs.candidate, pairs.context, surface, *sequence[1:], *statistics], dim=1)

    def heads(self, first: Tensor) -> Tensor:
        """Return float32[b, heads] logits from the output of `join`."""
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
