"""Generated ranking requests, and what they are gathered from."""

import numpy as np
import torch

from lifeline.scorer.features import RequestContext
from lifeline.scorer.inputs import Inputs
from lifeline.scorer.train.request import Request
from tests.support.scorer_factories import DAY, embeddings, history


def made_requests(rng: np.random.Generator, sizes: list[tuple[int, int, int]]) -> list[Request]:
    """Return a request for each (explicit tokens, impressions, candidates)."""
    return [
        Request(
            user,
            history(rng, explicit, shown),
            RequestContext(1000 * DAY + user, user % 3),
            np.arange(count).astype(np.uint64) + np.uint64(100 * user),
            embeddings(rng, count),
            rng.integers(0, 16, count).astype(np.uint64),
            {"random": rng.random(count).astype(np.float32)},
        )
        for user, (explicit, shown, count) in enumerate(sizes)
    ]


def rngs(count: int) -> list[np.random.Generator]:
    return [np.random.default_rng([9, number]) for number in range(count)]


def gathered(inputs: Inputs) -> dict[str, torch.Tensor]:
    """Return everything that the model sees of each place, whatever table it stands in."""
    index = inputs.index
    return {
        "embedding": torch.cat([inputs.embedding, torch.zeros(1, 32)])[index],
        "action_types": torch.cat([inputs.action_types, torch.zeros(1, dtype=torch.int64)])[index],
        "surface": torch.cat([inputs.surface, torch.zeros(1, dtype=torch.int64)])[index],
        **{
            name: getattr(inputs, name)
            for name in (
                "valid",
                "source",
                "similarity",
                "age_s",
                "candidate",
                "context",
                "context_surface",
            )
        },
    }
