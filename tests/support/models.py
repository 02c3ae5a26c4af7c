"""Small models and their inputs."""

import numpy as np
import torch
from numpy.typing import NDArray

from lifeline.scorer.config import ModelConfig
from lifeline.scorer.features import History
from lifeline.scorer.inputs import Inputs, Pairs
from lifeline.scorer.model import TransAct
from lifeline.scorer.selection import Selection, select
from tests.support.scorer_factories import DAY, SMALL


def made_model(config: ModelConfig = SMALL, seed: int = 0) -> TransAct:
    torch.manual_seed(seed)
    model = TransAct(config).eval()
    with torch.no_grad():
        # Also what starts at zero takes part.
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(std=0.3)
    return model


def made_inputs(
    rng: np.random.Generator, h: History, candidates: NDArray[np.int8], config: ModelConfig = SMALL
) -> tuple[Inputs, Selection]:
    selection = select(h, candidates, config)
    count = len(candidates)
    about = Pairs(
        candidates,
        np.full(count, 1000 * DAY),
        rng.normal(size=(count, config.context_features)).astype(np.float32),
        rng.integers(0, 4, count).astype(np.uint8),
    )
    inputs = Inputs.of(h.tokens, selection, about)
    return inputs, selection


def plain_norm(x: NDArray[np.float64]) -> NDArray[np.float64]:
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + 1e-5)  # type: ignore[no-any-return]
