"""An embedding table in memory."""

import numpy as np

from tests.support.scorer_factories import population, vectors_of


class Table:
    """Embeddings of a population's items."""

    def __init__(self) -> None:
        self._vectors = vectors_of(population(0))

    def lookup(
        self, item_id: "np.ndarray[tuple[int], np.dtype[np.uint64]]"
    ) -> "tuple[np.ndarray[tuple[int, int], np.dtype[np.int8]], np.ndarray[tuple[int], np.dtype[np.bool_]]]":
        rows = [self._vectors.get(int(item), np.zeros(32, np.int8)) for item in item_id]
        return np.stack(rows), np.array([int(item) in self._vectors for item in item_id])
