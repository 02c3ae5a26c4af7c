"""MovieLens-100K as a history: 100,000 ratings that 943 users gave 1,682 films in seven months of 1997 and 1998.

`make movielens` gets it (Harper and Konstan, 2015; the package it comes in is no dependency). A rating is an action:
4 and 5 are `liked`, 3 is `rated`, 1 and 2 are `disliked`. Embeddings are made here, of the first ratings alone: films
that the same users rated lie close together, by the truncated singular value decomposition of the ratings with users
and films weighted by how many they have, without its first direction, which tells popularity.
"""

import csv
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lifeline.core.embedding_codec import quantize
from lifeline.core.sequence import EMBEDDING_DIM
from lifeline.core.vocabulary import ActionType, Role, Vocabulary
from lifeline.sources.files import SourceError
from lifeline.sources.history import History, ItemEmbeddings

FILE = Path(__file__).resolve().parents[2] / ".movielens/recbole/dataset_example/ml-100k/ml-100k.inter"
"""Where `make movielens` leaves it in a checkout."""
RATINGS_VOCABULARY = Vocabulary(
    action_types={
        "liked": ActionType(id=1, role=Role.POSITIVE),
        "rated": ActionType(id=2, role=Role.NEUTRAL),
        "disliked": ActionType(id=3, role=Role.NEGATIVE),
    },
    surfaces={},
)
EMBEDDED_SHARE = 0.7
"""The first share of the ratings, which the embeddings are made from."""
_COLUMNS = ("user_id:token", "item_id:token", "rating:float", "timestamp:float")
_LEAST = 5
"""Ratings of a film that has an embedding."""


def read_movielens(path: Path = FILE) -> History:
    """Return the ratings in the order of their time; raises SourceError where the file is missing or another."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = csv.DictReader(file, delimiter="\t")
            columns = np.array([[float(row[name]) for name in _COLUMNS] for row in rows])
    except (OSError, UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
        raise SourceError(f"{path} cannot be read as ratings ({error!r}): `make movielens` gets them") from None
    if len(columns) == 0:
        raise SourceError(f"{path} holds no rating: `make movielens` gets them")
    columns = columns[np.argsort(columns[:, 3], kind="stable")]
    user, item, rating = columns[:, 0].astype(np.int64), columns[:, 1].astype(np.uint64), columns[:, 2]
    early = slice(0, int(EMBEDDED_SHARE * len(columns)))
    return History(
        name="MovieLens-100K",
        description=f"MovieLens-100K: {len(columns):,} ratings, from {path}",
        user_id=[str(number) for number in user.tolist()],
        timestamp_ms=(columns[:, 3] * 1000).astype(np.int64),
        item_id=item,
        action_type=np.select([rating >= 4, rating >= 3], [1, 2], 3).astype(np.uint8),
        surface=np.zeros(len(columns), np.uint8),
        embeddings=_embeddings(user[early], item[early]),
        vocabulary=RATINGS_VOCABULARY,
    )


def _embeddings(user: NDArray[np.int64], item: NDArray[np.uint64]) -> ItemEmbeddings:
    """Embed the items of n actions by who acted on them."""
    users, row = np.unique(user, return_inverse=True)
    items, column, counts = np.unique(item, return_inverse=True, return_counts=True)
    acted = np.zeros((len(users), len(items)))
    acted[row, column] = 1.0
    acted /= np.sqrt(acted.sum(axis=1, keepdims=True) * acted.sum(axis=0, keepdims=True))
    _, strength, direction = np.linalg.svd(acted, full_matrices=False)
    used = slice(1, 1 + EMBEDDING_DIM)
    vector = np.zeros((len(items), EMBEDDING_DIM))
    found = (direction[used] * strength[used, np.newaxis]).T
    vector[:, : found.shape[1]] = found
    length = np.linalg.norm(vector, axis=1, keepdims=True)
    known = (counts >= _LEAST) & (length[:, 0] > 0)
    return ItemEmbeddings(items[known], quantize(vector[known] / length[known]))
