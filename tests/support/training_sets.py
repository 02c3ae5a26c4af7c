"""Small sets to train on, and settings of a short training."""

import numpy as np

from lifeline.scorer.config import ModelConfig
from lifeline.scorer.settings import TrainSettings
from lifeline.scorer.train.examples import ExampleSet
from tests.support.ranking_requests import made_requests
from tests.support.scorer_factories import SMALL

SETTINGS = TrainSettings(
    steps=12, requests_per_step=4, candidates_drawn=3, validate_every=4, learning_rate=1e-2, patience=0
)


def made_set(seed: int, requests: int, config: ModelConfig = SMALL) -> ExampleSet:
    rng = np.random.default_rng(seed)
    sizes = [(int(rng.integers(5, 40)), int(rng.integers(0, 9)), int(rng.integers(3, 7))) for _ in range(requests)]
    return ExampleSet.of(made_requests(rng, sizes), config)
