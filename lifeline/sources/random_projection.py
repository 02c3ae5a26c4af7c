"""Embeddings for a history that has none, by random projection: items that occur together get similar embeddings.

An occasion is the set of actions of a user at one timestamp. It has a random direction, which is computed from a hash.
The vector of an item is the sum of the directions of its occasions: a random projection of the matrix of items and
occasions. It takes one pass, and uses only co-occurrence; a trained embedding is better.
"""

from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from lifeline.core.embedding_codec import quantize
from lifeline.core.sequence import EMBEDDING_DIM
from lifeline.sources.files import Source
from lifeline.sources.history import ItemEmbeddings


def project(source: Source) -> ItemEmbeddings:
    """Return int8[m, 32] embeddings of the source's m items; the same source gives the same bytes."""
    rows: dict[int, int] = {}
    sums: list[NDArray[np.float64]] = []
    occasion = ("", 0)
    direction: NDArray[np.float64] = np.zeros(EMBEDDING_DIM)
    for action in source:
        if (action.user_id, action.timestamp_ms) != occasion:
            occasion = action.user_id, action.timestamp_ms
            seed = blake2b(f"{occasion[1]} {occasion[0]}".encode(), digest_size=EMBEDDING_DIM).digest()
            direction = np.frombuffer(seed, np.uint8).astype(np.float64) - 127.5
        row = rows.setdefault(action.item_id, len(rows))
        if row == len(sums):
            sums.append(np.zeros(EMBEDDING_DIM))
        sums[row] += direction
    if not sums:
        return ItemEmbeddings(np.empty(0, np.uint64), np.empty((0, EMBEDDING_DIM), np.int8))
    vectors = np.stack(sums)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return ItemEmbeddings(np.array(list(rows), np.uint64), quantize(vectors))
