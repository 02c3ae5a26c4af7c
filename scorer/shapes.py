"""The names and shapes of a version's tensors, from its configuration alone, to check files against.

All tensors are float32. Nothing is allocated here, however large the configuration is.
"""

from collections.abc import Mapping
from itertools import pairwise
from math import prod

from lifeline.core.sequence import EMBEDDING_DIM
from lifeline.core.vocabulary import MAX_ACTION_TYPES, MAX_SURFACES
from lifeline.scorer.config import WIDTH, ModelConfig
from lifeline.scorer.model import SURFACE_CHANNELS
from lifeline.scorer.selection_features import statistics_count

Shapes = Mapping[str, tuple[int, ...]]


def element_count(shapes: Shapes) -> int:
    """Return the total number of elements of tensors with these shapes."""
    return sum(map(prod, shapes.values()))


def weight_shapes(config: ModelConfig) -> Shapes:
    """Return the shapes of `TransAct.state_dict()`."""
    shapes: dict[str, tuple[int, ...]] = {"context_surface": (MAX_SURFACES, SURFACE_CHANNELS)}
    width = EMBEDDING_DIM + config.context_features + SURFACE_CHANNELS
    width += statistics_count(config.selection_statistics, len(config.heads))
    if config.encoder != "none":
        shapes |= _encoder(config) | _linear("read_out", WIDTH, config.read_out)
        width += config.read_out + config.newest_outputs * WIDTH
        if config.sequence_gate:
            shapes["sequence_gate"] = (config.read_out,)
    if config.nal_weight:
        shapes["next_action.weight"] = (EMBEDDING_DIM, WIDTH)
    for layer in range(config.cross_layers):
        shapes |= _linear(f"cross.{layer}.linear", width, width)
    sizes = (width, *config.mlp, len(config.heads))
    for layer, (before, after) in enumerate(pairwise(sizes)):
        # A ReLU between two layers takes the odd numbers.
        shapes |= _linear(f"mlp.{2 * layer}", before, after)
    return shapes


def calibration_shapes(config: ModelConfig) -> Shapes:
    """Return the shapes of `scorer.int8.tensors_of`."""
    layers = config.layers
    return {"inputs": (layers + 1,), "middle": (layers,), "values": (layers, WIDTH), "wide": (layers, config.ffn)}


def _encoder(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "encoder.tokens.action": (MAX_ACTION_TYPES, WIDTH),
        "encoder.tokens.surface": (MAX_SURFACES, WIDTH),
        "encoder.tokens.position": (config.selection_length, WIDTH),
    }
    for name, knots in (("similarity", config.similarity_buckets), ("age", config.age_buckets)):
        if knots:
            shapes[f"encoder.tokens.{name}"] = (knots, WIDTH)
    if config.encoder == "bst":
        shapes["encoder.candidate"] = (1, WIDTH)
    for layer in range(config.layers):
        block = f"encoder.blocks.{layer}"
        shapes |= {f"{block}.{name}.weight": (WIDTH, WIDTH) for name in ("query", "key", "value")}
        shapes |= {f"{block}.widen.weight": (config.ffn, WIDTH), f"{block}.narrow.weight": (WIDTH, config.ffn)}
    return shapes


def _linear(name: str, before: int, after: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (after, before), f"{name}.bias": (after,)}
