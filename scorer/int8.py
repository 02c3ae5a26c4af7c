"""The int8 encoder simulated in PyTorch: it rounds as the VNNI kernels do, to measure what each int8 product costs.

The products of a mix are computed in int8 and all others in bfloat16; sums, norms and residuals are float32. Weights
have one scale per output channel. The inputs of a block and of its feed-forward half have one static scale each; values
and the hidden layer have one per channel. These static scales come from calibration. Each query has a scale of its own,
and the softmax, whose greatest weight is 1, has 255 steps.
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
"""x M; (x M) x^T; x V; the softmax times V; W1; W2; and the read-out, which belongs to no layer."""


class Product(NamedTuple):
    """One matrix product of the encoder."""

    layer: int
    """-1 for the read-out."""
    kind: Kind

    def __str__(self) -> str:
        return self.kind if self.layer < 0 else f"layer {self.layer + 1} {self.kind}"


Mix = frozenset[Product]
"""The products that are computed in int8; all others are computed in bfloat16."""


def products(model: TransAct) -> list[Product]:
    """Return all products of a model; raises PrecisionError for one without TransActV2's encoder."""
    kinds = [kind for kind in get_args(Kind) if kind != "read_out"]
    layers = len(_encoder(model).blocks)
    return [Product(layer, kind) for layer in range(layers) for kind in kinds] + [Product(-1, "read_out")]


def kernel_mix(model: TransAct) -> Mix:
    """Return the int8 products of the kernels: all but the read-out, which loses the most and saves the least."""
    return frozenset(product for product in products(model) if product.kind != "read_out")


def operations(model: TransAct, product: Product) -> int:
    """Return the multiplications of a product for one candidate with a full selection."""
    length = model.config.selection_length
    tokens = {
        "match": WIDTH * WIDTH,
        "value": WIDTH * WIDTH,
        "widen": WIDTH * model.config.ffn,
        "narrow": WIDTH * model.config.ffn,
        "read_out": WIDTH * model.config.read_out,
        # Causal attention: half of all pairs.
        "score": WIDTH * (length + 1) // 2,
        "attend": WIDTH * (length + 1) // 2,
    }
    return length * tokens[product.kind]


SCALES = (1e-9, 1e9)
"""The least and the greatest scale: their reciprocals are finite float32 as well."""


class Calibration(NamedTuple):
    """Scales of a model: the value that 127 stands for, or 255 if values are never negative. Each is within SCALES."""

    inputs: list[Tensor]
    """Scalars: of each layer's inputs, and of the read-out's input."""
    middle: list[Tensor]
    """Scalars: of the inputs of each feed-forward half."""
    values: list[Tensor]
    """float32[64] for each layer: of the values."""
    wide: list[Tensor]
    """float32[ffn] for each layer: of the hidden layer."""


def tensors_of(calibration: Calibration) -> dict[str, Tensor]:
    """Return the tensors of a calibration file, by name."""
    return {name: torch.stack(parts) for name, parts in calibration._asdict().items()}


def calibration_of(tensors: Mapping[str, Tensor]) -> Calibration:
    """Return the calibration of a file's tensors, whose shapes are correct; raises ValueError for a bad scale."""
    least, greatest = SCALES
    for name, scales in tensors.items():
        if not ((scales >= least) & (scales <= greatest)).all():
            raise ValueError(f"{name} holds a scale outside {least} to {greatest}")
    return Calibration(*(list(tensors[name]) for name in Calibration._fields))


def calibrate(model: TransAct, batches: Iterable[Inputs]) -> Calibration:
    """Return the greatest inputs of each product over requests; raises PrecisionError without a request."""
    encoder = _encoder(model)
    ranges = [_LayerRanges() for _ in encoder.blocks]
    last = torch.zeros(())
    with torch.inference_mode():
        for inputs in batches:
            valid = inputs.valid
            x = encoder.embed(inputs)
            for block, layer_range in zip(encoder.blocks, ranges, strict=True):
                x = layer_range.update(cast("EncoderBlock", block), x, valid)
            last = torch.maximum(last, x[valid].abs().amax())
    if not last:
        raise PrecisionError("there is no request to calibrate on: store longer histories")
    # A channel may be zero in every request.
    least, greatest = SCALES
    return Calibration(
        *(
            [scale.clamp(least, greatest) for scale in scales]
            for scales in (
                [*(layer.inputs for layer in ranges), last],
                [layer.middle for layer in ranges],
                [layer.values for layer in ranges],
                [layer.wide for layer in ranges],
            )
        )
    )


def quantize_model(model: TransAct, mix: Mix, calibration: Calibration) -> TransAct:
    """Return a copy of the model whose encoder rounds the operands of its products, in float32 arithmetic."""
    copied = copy.deepcopy(model)
    encoder = _encoder(copied)
    for layer, block in enumerate(encoder.blocks):
        kinds = {product.kind for product in mix if product.layer == layer}
        encoder.blocks[layer] = _QuantizedBlock(cast("EncoderBlock", block), frozenset(kinds), layer, calibration)
    low = Product(-1, "read_out") not in mix
    copied.read_out = cast("nn.Linear", _QuantizedLinear(copied.read_out, None if low else calibration.inputs[-1]))
    return copied


def _encoder(model: TransAct) -> Encoder:
    if not isinstance(model.encoder, Encoder):
        raise PrecisionError(
            f"encoder {model.config.encoder} has no products of another precision: measure a model with transact"
        )
    return model.encoder


class _LayerRanges:
    """The greatest absolute inputs of a layer's products so far."""

    def __init__(self) -> None:
        self.inputs, self.middle = torch.zeros(()), torch.zeros(())
        self.values, self.wide = torch.zeros(WIDTH), torch.zeros(())

    def update(self, block: EncoderBlock, x: Tensor, valid: Tensor) -> Tensor:
        """Take the inputs x, float32[b, L, 64], into account; return the block's outputs."""
        value = functional.linear(x, _centred(block.value.weight))
        attended = functional.scaled_dot_product_attention(block.query(x), block.key(x), value, is_causal=True)
        y = functional.layer_norm(x + attended, (WIDTH,))
        wide = functional.relu(block.widen(y))
        self.inputs = torch.maximum(self.inputs, x[valid].abs().amax())
        self.middle = torch.maximum(self.middle, y[valid].abs().amax())
        self.values = torch.maximum(self.values, value[valid].abs().amax(dim=0))
        self.wide = torch.maximum(self.wide, wide[valid].amax(dim=0))
        return functional.layer_norm(y + block.narrow(wide), (WIDTH,))


class _QuantizedBlock(nn.Module):
    """An encoder block whose products have rounded operands."""

    def __init__(self, block: EncoderBlock, kinds: frozenset[Kind], layer: int, calibration: Calibration) -> None:
        super().__init__()
        self._kinds = kinds
        match = (block.key.weight.double().T @ block.query.weight.double() / math.sqrt(WIDTH)).float()
        self._match = _weight(match, "match" in kinds)
        self._value = _weight(_centred(block.value.weight), "value" in kinds)
        self._widen = _weight(block.widen.weight, "widen" in kinds)
        wide = calibration.wide[layer]
        # The scale of each hidden channel is folded into the weights that read the channel.
        self._wide = wide / 255
        narrow = _centred(block.narrow.weight) * wide
        self._narrow = _weight(narrow, "narrow" in kinds) / wide
        self._inputs, self._middle = calibration.inputs[layer], calibration.middle[layer]
        self._values = calibration.values[layer]

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's outputs, float32[b, L, 64]."""
        x_bfloat16, x_int8 = _bfloat16(x), _int8(x, self._inputs)

        def operand(kind: Kind) -> Tensor:
            return x_int8 if kind in self._kinds else x_bfloat16

        query = functional.linear(operand("match"), self._match)
        if "score" in self._kinds:
            query = _int8(query, query.abs().amax(dim=-1, keepdim=True).clamp(min=1e-9))
        else:
            query = _bfloat16(query)
        score = query @ operand("score").transpose(1, 2)
        length = x.shape[1]
        score = score + torch.full((length, length), -torch.inf).triu(1)
        share = torch.exp(score - score.amax(dim=-1, keepdim=True))
        value = functional.linear(operand("value"), self._value)
        if "attend" in self._kinds:
            share, value = (share * 255).round() / 255, _int8(value, self._values)
        else:
            share, value = _bfloat16(share), _bfloat16(value)
        y = functional.layer_norm(x + share @ value / share.sum(dim=-1, keepdim=True), (WIDTH,))
        middle = _int8(y, self._middle) if "widen" in self._kinds else _bfloat16(y)
        wide = functional.relu(functional.linear(middle, self._widen))
        wide = (wide / self._wide).round().clamp(max=255) * self._wide if "narrow" in self._kinds else _bfloat16(wide)
        return functional.layer_norm(y + functional.linear(wide, self._narrow), (WIDTH,))


class _QuantizedLinear(nn.Module):
    """A linear layer whose operands are rounded: to int8 if it has a scale, or else to bfloat16."""

    def __init__(self, linear: nn.Linear, scale: Tensor | None) -> None:
        super().__init__()
        self._scale, self._bias = scale, linear.bias
        self._weight = _weight(linear.weight, scale is not None)

    def forward(self, x: Tensor) -> Tensor:
        """Return float32[..., out]."""
        x = _bfloat16(x) if self._scale is None else _int8(x, self._scale)
        return functional.linear(x, self._weight, self._bias)


def _centred(weight: Tensor) -> Tensor:
    """Return [64, in] weights whose outputs have mean 0: the layer norm subtracts the mean anyway."""
    return weight - weight.mean(dim=0)


def _weight(weight: Tensor, is_int8: bool) -> Tensor:  # noqa: FBT001
    """Return rounded [out, in] weights: in int8 with a scale per output channel, or in bfloat16."""
    weight = weight.detach()
    return _int8(weight, weight.abs().amax(dim=1, keepdim=True).clamp(min=1e-9)) if is_int8 else _bfloat16(weight)


def _int8(values: Tensor, greatest: Tensor) -> Tensor:
    scale = greatest / 127
    return (values / scale).round().clamp(-127, 127) * scale


def _bfloat16(values: Tensor) -> Tensor:
    return values.bfloat16().float()
