"""A past request with known outcomes, for training and evaluation."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lifeline.core.action_types import bits_of
from lifeline.scorer.config import Head
from lifeline.scorer.features import History, RequestContext


@dataclass(frozen=True, slots=True)
class Request:
    """One request: a history that ends before it, c candidates, and their outcomes."""

    user: int
    """The number of the user, unique in the data set."""
    history: History
    context: RequestContext
    item_id: NDArray[np.uint64]
    """uint64[c]: the candidates, all different."""
    embedding: NDArray[np.int8]
    """int8[c, 32]: zeros if unknown."""
    action_types: NDArray[np.uint64]
    """uint64[c]: what the user did to each, bit id - 1; 0 for nothing."""
    rankings: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    """float32[c] by name: scores of other rankers, to compare with; higher is better."""


def labels(action_types: NDArray[np.uint64], heads: tuple[Head, ...]) -> NDArray[np.float32]:
    """Return float32[c, heads]: 1 if the user did one of the head's action types, else 0."""
    masks = [bits_of(head.action_types) for head in heads]
    done: NDArray[np.bool_] = (action_types[:, np.newaxis] & np.array(masks, np.uint64)) != 0
    return done.astype(np.float32)
