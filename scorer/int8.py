"""The encoder with products of int8, as kernels with VNNI make them, in PyTorch: to see what each of them costs.

A product is of int8 where the mix says so, and of bfloat16 elsewhere; sums, norms and what is carried on are float32.
Weights have one scale an output channel. Inputs of a block, and of its feed-forward half, have one static scale each;
values and the wide layer one a channel; all those come from calibration. A query has a scale of its own, and the
shares of the softmax, whose greatest is 1, have 255 steps.
"""

import copy
import math
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from lifeline.scorer.config import WIDTH
from lifeline.scorer.encoder import Encoder, EncoderBlock
from lifeline.scorer.errors import PrecisionError
from lifeline.scorer.inputs import Inputs
from lifeline.scorer.model import TransAct

Kind = Literal["match", "score", "value", "attend", "widen", "narrow", "read_out"]
"""x M; (x M) x; x V; the shares times V; W1; W2; and the read-out, which is in no layer."""


class Product(NamedTuple):
    """One product of the encoder."""

    layer: int
    """-1 for the read-out."""
    kind: Kind

    def __str__(self) -> str:
        return self.kind if self.layer < 0 else f"layer {self.layer + 1} {self.kind}"


Mix = frozenset[Product]
"""Which products are of int8."""


def products(model: TransAct) -> list[Product]:
    """Return all products of a model; raises PrecisionError for one without TransActV2's encoder."""
    kinds = [kind for kind in get_args(Kind) if kind != "read_out"]
    layers = len(_encoder(model).blocks)
    return [Product(layer, kind) for layer in range(layers) for kind in kinds] + [Product(-1, "read_out")]


def of_kernels(model: TransAct) -> Mix:
    """Return the mix that the kernels have: all but the read-out, which costs most and gains least."""
    return frozenset(product for product in products(model) if product.kind != "read_out")


def operations(model: TransAct, product: Product) -> int:
    """Return the multiplications of a product, for one candidate with the selection's whole length."""
    length = model.config.selected
    tokens = {
        "match": WIDTH * WIDTH,
        "value": WIDTH * WIDTH,
        "widen": WIDTH * model.config.ffn,
        "narrow": WIDTH * model.config.ffn,
        "read_out": WIDTH * model.config.read_out,
        # Causal: half of all pairs.
        "score": WIDTH * (length + 1) // 2,
        "attend": WIDTH * (length + 1) // 2,
    }
    return length * tokens[product.kind]


SCALES = (1e-9, 1e9)
"""From the least to the greatest scale: one over it is a number as well."""


class Calibration(NamedTuple):
    """Scales of a model: what 127 stands for, or 255 for what is never negative; each in SCALES."""

    inputs: list[Tensor]
    """Of each layer's inputs, and of what the read-out reads: scalars."""
    middle: list[Tensor]
    """Of the feed-forward half's inputs: scalars."""
    values: list[Tensor]
    """float32[64] a layer."""
    wide: list[Tensor]
    """float32[ffn] a layer."""


def tensors_of(calibration: Calibration) -> dict[str, Tensor]:
    """Return what is kept of a calibration, by name."""
    return {name: torch.stack(parts) for name, parts in calibration._asdict().items()}


def calibration_of(tensors: Mapping[str, Tensor]) -> Calibration:
    """Return the calibration that was kept; raises ValueError for a scale that is none. The shapes are as kept."""
    least, greatest = SCALES
    for name, scales in tensors.items():
        if not ((scales >= least) & (scales <= greatest)).all():
            raise ValueError(f"{name} holds a scale that is not from {least} to {greatest}")
    return Calibration(*(list(tensors[name]) for name in Calibration._fields))


def calibrate(model: TransAct, batches: Iterable[Inputs]) -> Calibration:
    """Look at what requests make of each product's inputs; raises PrecisionError without a request."""
    encoder = _encoder(model)
    seen = [_Seen() for _ in encoder.blocks]
    last = torch.zeros(())
    with torch.inference_mode():
        for inputs in batches:
            there = inputs.valid
            x = encoder.embed(inputs)
            for block, own in zip(encoder.blocks, seen, strict=True):
                x = own.look(cast("EncoderBlock", block), x, there)
            last = torch.maximum(last, x[there].abs().amax())
    if not last:
        raise PrecisionError("there is no request to calibrate on: give some")
    # A channel may have been zero throughout.
    least, greatest = SCALES
    return Calibration(
        *(
            [scale.clamp(least, greatest) for scale in scales]
            for scales in (
                [*(own.inputs for own in seen), last],
                [own.middle for own in seen],
                [own.values for own in seen],
                [own.wide for own in seen],
            )
        )
    )


def quantized(model: TransAct, mix: Mix, calibration: Calibration) -> TransAct:
    """Return a copy of the model with a mix of products in its encoder, for float32 arithmetic."""
    made = copy.deepcopy(model)
    encoder = _encoder(made)
    for layer, block in enumerate(encoder.blocks):
        kinds = {product.kind for product in mix if product.layer == layer}
        encoder.blocks[layer] = _Block(cast("EncoderBlock", block), frozenset(kinds), layer, calibration)
    low = Product(-1, "read_out") not in mix
    made.read_out = cast("nn.Linear", _Linear(made.read_out, None if low else calibration.inputs[-1]))
    return made


def _encoder(model: TransAct) -> Encoder:
    if not isinstance(model.encoder, Encoder):
        raise PrecisionError(
            f"encoder {model.config.encoder} has no products of another precision: measure a model with transact"
        )
    return model.encoder


class _Seen:
    """What a layer's products were given, at most."""

    def __init__(self) -> None:
        self.inputs, self.middle = torch.zeros(()), torch.zeros(())
        self.values, self.wide = torch.zeros(WIDTH), torch.zeros(())

    def look(self, block: EncoderBlock, x: Tensor, there: Tensor) -> Tensor:
        """Return the block's outputs."""
        value = functional.linear(x, _centred(block.value.weight))
        attended = functional.scaled_dot_product_attention(block.query(x), block.key(x), value, is_causal=True)
        y = functional.layer_norm(x + attended, (WIDTH,))
        wide = functional.relu(block.widen(y))
        self.inputs = torch.maximum(self.inputs, x[there].abs().amax())
        self.middle = torch.maximum(self.middle, y[there].abs().amax())
        self.values = torch.maximum(self.values, value[there].abs().amax(dim=0))
        self.wide = torch.maximum(self.wide, wide[there].amax(dim=0))
        return functional.layer_norm(y + block.narrow(wide), (WIDTH,))


class _Block(nn.Module):
    """A block whose products are rounded."""

    def __init__(self, block: EncoderBlock, kinds: frozenset[Kind], layer: int, calibration: Calibration) -> None:
        super().__init__()
        self._kinds = kinds
        match = (block.key.weight.double().T @ block.query.weight.double() / math.sqrt(WIDTH)).float()
        self._match = _weight(match, "match" in kinds)
        self._value = _weight(_centred(block.value.weight), "value" in kinds)
        self._widen = _weight(block.widen.weight, "widen" in kinds)
        wide = calibration.wide[layer]
        # Each wide channel's scale is part of the weights that read it.
        self._wide = wide / 255
        narrow = _centred(block.narrow.weight) * wide
        self._narrow = _weight(narrow, "narrow" in kinds) / wide
        self._inputs, self._middle = calibration.inputs[layer], calibration.middle[layer]
        self._values = calibration.values[layer]

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's outputs, float32[b, L, 64]."""
        low, small = _bfloat16(x), _int8(x, self._inputs)

        def of(kind: Kind) -> Tensor:
            return small if kind in self._kinds else low

        query = functional.linear(of("match"), self._match)
        if "score" in self._kinds:
            query = _int8(query, query.abs().amax(dim=-1, keepdim=True).clamp(min=1e-9))
        else:
            query = _bfloat16(query)
        score = query @ of("score").transpose(1, 2)
        length = x.shape[1]
        score = score + torch.full((length, length), -torch.inf).triu(1)
        share = torch.exp(score - score.amax(dim=-1, keepdim=True))
        value = functional.linear(of("value"), self._value)
        if "attend" in self._kinds:
            share, value = (share * 255).round() / 255, _int8(value, self._values)
        else:
            share, value = _bfloat16(share), _bfloat16(value)
        y = functional.layer_norm(x + share @ value / share.sum(dim=-1, keepdim=True), (WIDTH,))
        middle = _int8(y, self._middle) if "widen" in self._kinds else _bfloat16(y)
        wide = functional.relu(functional.linear(middle, self._widen))
        wide = (wide / self._wide).round().clamp(max=255) * self._wide if "narrow" in self._kinds else _bfloat16(wide)
        return functional.layer_norm(y + functional.linear(wide, self._narrow), (WIDTH,))


class _Linear(nn.Module):
    """A linear layer whose product is rounded: to int8 by a scale, or to bfloat16."""

    def __init__(self, linear: nn.Linear, scale: Tensor | None) -> None:
        super().__init__()
        self._scale, self._bias = scale, linear.bias
        self._weight = _weight(linear.weight, scale is not None)

    def forward(self, x: Tensor) -> Tensor:
        """Return float32[..., out]."""
        x = _bfloat16(x) if self._scale is None else _int8(x, self._scale)
        return functional.linear(x, self._weight, self._bias)


def _centred(weight: Tensor) -> Tensor:
    """Return [64, in] weights that add nothing to the mean of what they make: a layer norm takes that away again."""
    return weight - weight.mean(dim=0)


def _weight(weight: Tensor, small: bool) -> Tensor:  # noqa: FBT001
    """Return [out, in] weights as they are read: in int8, with a scale an output channel, or in bfloat16."""
    weight = weight.detach()
    return _int8(weight, weight.abs().amax(dim=1, keepdim=True).clamp(min=1e-9)) if small else _bfloat16(weight)


def _int8(values: Tensor, greatest: Tensor) -> Tensor:
    scale = greatest / 127
    return (values / scale).round().clamp(-127, 127) * scale


def _bfloat16(values: Tensor) -> Tensor:
    return values.bfloat16().float()
