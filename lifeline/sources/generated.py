"""A generated history, for machines without the real one. It is deterministic, and resembles a real history.

Items belong to clusters, with similar embeddings and Zipf popularity inside a cluster. A user has a few favourite
clusters and acts in visits, each within one cluster. Users act on some of the items that are shown to them. Some
events arrive late, and some twice. The history of one user is longer than the store's cap.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lifeline.core.embedding_codec import quantize
from lifeline.core.sequence import EMBEDDING_DIM
from lifeline.core.vocabulary import Vocabulary

SEED = 20_250_701
USERS = 2_000
ITEMS = 12_000
CLUSTERS = 64
LONGEST = 20_000
"""The number of explicit actions of the user with the longest history."""
EXPLICIT = 160_000
IMPRESSIONS = 40_000
ACTIONS_PER_VISIT = 8
FAVOURITES = 3
END_MS = 1_751_328_000_000
"""2025-07-01T00:00:00Z, the end of the generated history."""
SPAN_MS = 540 * 86_400_000
HOUR_MS = 3_600_000

Ints = NDArray[np.int64]


class GeneratedHistory(NamedTuple):
    """The columns of `History`, in order of arrival."""

    user_id: list[str]
    timestamp_ms: NDArray[np.int64]
    item_id: NDArray[np.uint64]
    action_type: NDArray[np.uint8]
    surface: NDArray[np.uint8]
    embedded_item_id: NDArray[np.uint64]
    embedding: NDArray[np.int8]
    vocabulary: Vocabulary


class _Items(NamedTuple):
    """The items, ordered by cluster."""

    ids: NDArray[np.uint64]
    cluster: Ints
    popularity: NDArray[np.float64]
    """Cumulative, up to and including each item."""

    def draw(self, rng: np.random.Generator, cluster: Ints) -> Ints:
        """Draw one item of each cluster by popularity, and return the indexes of the items, int64[n]."""
        first = np.searchsorted(self.cluster, cluster)
        last = np.searchsorted(self.cluster, cluster, side="right") - 1
        before = np.where(first > 0, self.popularity[first - 1], 0.0)
        sample = before + rng.random(len(cluster)) * (self.popularity[last] - before)
        return np.clip(np.searchsorted(self.popularity, sample, side="right"), first, last)


def generate(seed: int = SEED) -> GeneratedHistory:
    """Generate about 202,000 actions; equal seeds give equal histories."""
    rng = np.random.default_rng(seed)
    vocabulary = Vocabulary()
    items = _make_items(rng)
    embedded, embedding = _make_embeddings(rng, items)
    favourites = rng.integers(0, CLUSTERS, (USERS, FAVOURITES))

    lengths = rng.lognormal(0.0, 1.4, USERS)
    lengths[0] = 0
    lengths = np.maximum(1, lengths / lengths.sum() * (EXPLICIT - LONGEST)).astype(np.int64)
    lengths[0] = LONGEST
    user = np.repeat(np.arange(USERS), lengths)

    # A visit starts at a user's first action, and then at about every eighth action.
    starts = rng.random(len(user)) < 1 / ACTIONS_PER_VISIT
    starts |= np.diff(user, prepend=-1) > 0
    visit = np.cumsum(starts) - 1
    first_action = np.flatnonzero(starts)
    visit_user = user[first_action]
    in_favourite = rng.random(len(first_action)) < 0.85
    visit_cluster = np.where(
        in_favourite,
        favourites[visit_user, rng.integers(0, FAVOURITES, len(first_action))],
        rng.integers(0, CLUSTERS, len(first_action)),
    )
    visit_start = END_MS - SPAN_MS + (rng.random(len(first_action)) * (SPAN_MS - 24 * HOUR_MS)).astype(np.int64)
    pause = np.cumsum(rng.exponential(25_000, len(user)).astype(np.int64) + 1)
    timestamp_ms = visit_start[visit] + pause - pause[first_action][visit]
    cluster = visit_cluster[visit]
    is_favourite = (favourites[user] == cluster[:, None]).any(axis=1)
    action_type = _pick_types(rng, vocabulary, is_favourite)
    item = items.draw(rng, cluster)
    surface = rng.integers(0, len(vocabulary.surfaces) + 1, len(first_action))[visit]

    # Half of the impressions show an item that the user acts on a moment later; the others show any item.
    source_row = rng.integers(0, len(user), IMPRESSIONS)
    other_item = items.draw(rng, rng.integers(0, CLUSTERS, IMPRESSIONS))
    is_acted_on = rng.random(IMPRESSIONS) < 0.5
    impression = vocabulary.action_types["impression"].id
    user = np.concatenate([user, user[source_row]])
    item = np.concatenate([item, np.where(is_acted_on, item[source_row], other_item)])
    timestamp_ms = np.concatenate([timestamp_ms, timestamp_ms[source_row] - rng.integers(500, 9_000, IMPRESSIONS)])
    action_type = np.concatenate([action_type, np.full(IMPRESSIONS, impression)])
    surface = np.concatenate([surface, surface[source_row]])

    order = _arrivals(rng, timestamp_ms)
    return GeneratedHistory(
        user_id=[f"user{number:04d}" for number in user[order].tolist()],
        timestamp_ms=timestamp_ms[order],
        item_id=items.ids[item[order]],
        action_type=action_type[order].astype(np.uint8),
        surface=surface[order].astype(np.uint8),
        embedded_item_id=embedded,
        embedding=embedding,
        vocabulary=vocabulary,
    )


def _make_items(rng: np.random.Generator) -> _Items:
    ids = np.unique(rng.integers(0, np.iinfo(np.uint64).max, ITEMS, dtype=np.uint64))
    ids = rng.permutation(ids)
    cluster = np.sort(rng.integers(0, CLUSTERS, len(ids)))
    rank = np.arange(len(ids)) - np.searchsorted(cluster, cluster)
    return _Items(ids, cluster, np.cumsum(1.0 / (rank + 3.0)))


def _make_embeddings(rng: np.random.Generator, items: _Items) -> tuple[NDArray[np.uint64], NDArray[np.int8]]:
    """Return the ids and embeddings of nine items in ten: unit vectors near their cluster's centre, quantized."""
    centre = rng.standard_normal((CLUSTERS, EMBEDDING_DIM))
    rows = centre[items.cluster] + 0.7 * rng.standard_normal((len(items.ids), EMBEDDING_DIM))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    has_embedding = rng.random(len(items.ids)) < 0.9
    return items.ids[has_embedding], quantize(rows[has_embedding])


def _pick_types(rng: np.random.Generator, vocabulary: Vocabulary, is_favourite: NDArray[np.bool_]) -> Ints:
    """Draw an explicit action type for each action: users save items of favourite clusters, and hide others."""
    types = np.array([vocabulary.action_types[name].id for name in ("repin", "click", "closeup", "hide")])
    liked = rng.choice(types, len(is_favourite), p=[0.35, 0.35, 0.27, 0.03])
    other = rng.choice(types, len(is_favourite), p=[0.08, 0.32, 0.35, 0.25])
    return np.where(is_favourite, liked, other)


def _arrivals(rng: np.random.Generator, timestamp_ms: Ints) -> Ints:
    """Return row indexes in order of arrival: 10 % of the rows arrive late, up to days, and 1 % arrive twice."""
    rows = len(timestamp_ms)
    is_late = rng.random(rows) < 0.1
    arrival = timestamp_ms + rng.exponential(np.where(is_late, 8 * HOUR_MS, 300)).astype(np.int64)
    repeated = np.flatnonzero(rng.random(rows) < 0.01)
    arrival = np.concatenate([arrival, arrival[repeated] + rng.exponential(2_000, len(repeated)).astype(np.int64)])
    return np.concatenate([np.arange(rows), repeated])[np.argsort(arrival, kind="stable")]
