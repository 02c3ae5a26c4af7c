"""Items of the simulator: each belongs to a topic, and its embedding is near the topic's centre."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lifeline.core.embedding_codec import quantize
from lifeline.core.sequence import EMBEDDING_DIM

SPREAD = 0.8
"""Distance of embeddings, and of a user's tastes, from a topic's centre."""
_POPULARITY_OFFSET = 5.0

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Items:
    """m items; those of a topic are consecutive."""

    item_id: NDArray[np.uint64]
    """uint64[m]."""
    topic: Ints
    """int64[m]."""
    vector: Floats
    """float64[m, 32], of length 1."""
    embedding: NDArray[np.int8]
    """int8[m, 32]: `vector`, quantized."""
    centre: Floats
    """float64[topics, 32], of length 1."""
    popularity: Floats
    """float64[items of a topic]: cumulative probability within the topic."""

    def draw(self, rng: np.random.Generator, topic: Ints) -> Ints:
        """Return one item (its row) for each of the topics, an array of any shape, by popularity."""
        within = np.searchsorted(self.popularity, rng.random(topic.shape), side="right")
        return topic * len(self.popularity) + np.minimum(within, len(self.popularity) - 1)


def make_items(seed: int, topics: int, items_per_topic: int) -> Items:
    """Return the items of a world; the same arguments give the same bytes."""
    rng = np.random.default_rng([seed, 0])
    count = topics * items_per_topic
    centre = rng.standard_normal((topics, EMBEDDING_DIM))
    centre /= np.linalg.norm(centre, axis=1, keepdims=True)
    topic = np.repeat(np.arange(topics), items_per_topic)
    vector = centre[topic] + SPREAD / np.sqrt(EMBEDDING_DIM) * rng.standard_normal((count, EMBEDDING_DIM))
    vector /= np.linalg.norm(vector, axis=1, keepdims=True)
    weight = 1 / (np.arange(items_per_topic) + _POPULARITY_OFFSET)
    # Distinct by construction, and in no order that a model could exploit.
    item_id = rng.permutation(count).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(seed)
    return Items(item_id, topic, vector, quantize(vector), centre, np.cumsum(weight / weight.sum()))
