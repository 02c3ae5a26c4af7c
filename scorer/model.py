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
"""Channels of the request's surface among the context features."""


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
                # At zero, as all of one dimension: what other inputs tell is learnt before the encoder is heard.
                self.sequence_gate = nn.Parameter(torch.empty(config.read_out))
            width += config.read_out + config.newest_outputs * WIDTH
        if config.nal_weight:
            # Training only: what the Next Action Loss compares with item embeddings.
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
            self.encoder.start_matching()

    def reduce_precision(self, *, reduced: bool) -> None:
        """Compute the encoder's products in bfloat16, or in float32 again."""
        for module in self.modules():
            if isinstance(module, EncoderBlock):
                module.reduced = reduced

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
        return self.heads(self.joined(inputs, encoded))

    def joined(self, inputs: Inputs, encoded: Tensor | None) -> Tensor:
        """Return what the cross reads, float32[b, width]."""
        return self.join(inputs.pairs, self.statistics(inputs), self.sequence(inputs, encoded))

    def sequence(self, inputs: Inputs, encoded: Tensor | None) -> list[Tensor]:
        """Return what the cross reads of the encoder's outputs: float32[b, ...] parts, none without an encoder."""
        if encoded is None:
            return []
        # What stands in front of the tokens, the candidate of `BehaviorEncoder`, is always there.
        valid = functional.pad(inputs.valid, (encoded.shape[1] - inputs.valid.shape[1], 0), value=True)
        parts = [self.read_out(encoded).masked_fill(~valid[:, :, None], -torch.inf).amax(dim=1)]
        if self.config.newest_outputs:
            recent = inputs.source == int(Source.RECENT)
            parts.append(_newest(encoded, recent, self.config.newest_outputs))
        return parts

    def statistics(self, inputs: Inputs) -> list[Tensor]:
        """Return what the cross reads of the selection itself: float32[b, ...], or nothing."""
        which = self.config.selection_statistics
        return [] if which == "none" else [selection_statistics(inputs, which, self.config.heads)]

    def join(self, pairs: PairInputs, statistics: list[Tensor], sequence: list[Tensor]) -> Tensor:
        """Return what the cross reads, float32[b, width], of what `statistics` and `sequence` give."""
        surface = self.context_surface[pairs.context_surface]
        if sequence and self.config.sequence_gate:
            sequence = [sequence[0] * self.sequence_gate, *sequence[1:]]
        return torch.cat([*sequence[:1], pairs.candidate, pairs.context, surface, *sequence[1:], *statistics], dim=1)

    def heads(self, first: Tensor) -> Tensor:
        """Return float32[b, heads] logits from what `join` gives."""
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
