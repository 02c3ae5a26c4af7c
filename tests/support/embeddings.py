import itertools

import numpy as np

from lifeline.store.embeddings import Embeddings, EmbeddingTable


def apply(table: EmbeddingTable, rows: list[tuple[int, int]], offset: int, partition: int = 0) -> None:
    """Apply (item, value) rows: an embedding is its value 32 times, and 0 forgets; versions count from 0."""
    table.apply(
        np.array([item for item, _ in rows], np.uint64),
        np.repeat(np.array([value for _, value in rows], np.int8), 32).reshape(-1, 32),
        np.arange(len(rows), dtype=np.uint32),
        partition=partition,
        offset=offset,
    )


def check(table: Embeddings, model: dict[int, int]) -> None:
    absent = next(item for item in itertools.count() if item not in model)
    ids = np.array([*model, absent], np.uint64)
    embedding, known = table.lookup(ids)
    assert embedding.dtype == np.int8
    assert embedding.shape == (len(ids), 32)
    assert embedding.min(axis=1).tolist() == embedding.max(axis=1).tolist() == [*model.values(), 0]
    assert known.tolist() == [*(value != 0 for value in model.values()), False]
