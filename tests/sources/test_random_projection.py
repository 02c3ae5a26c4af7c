"""Items with actions at the same time get similar embeddings."""

import numpy as np

from lifeline.sources.files import Source
from lifeline.sources.random_projection import project
from lifeline.v1.action_pb2 import Action


def source(rows: list[tuple[str, int, int]]) -> Source:
    return Source(
        "together",
        len(rows),
        lambda: iter([Action(user_id=u, timestamp_ms=t, item_id=i, action_type=1) for u, t, i in rows]),
    )


def test_items_of_the_same_occasions_have_similar_embeddings() -> None:
    together = [("ann", at, item) for at in range(1, 30) for item in (1, 2)]
    apart = [("bob", at, 3) for at in range(1, 30)]
    projected = project(source(together + apart))
    assert projected.item_id.tolist() == [1, 2, 3]
    vectors = projected.embedding.astype(float)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    assert vectors[0] @ vectors[1] > 0.99
    assert abs(vectors[0] @ vectors[2]) < 0.7
    assert projected.embedding.min() >= -127
    assert np.array_equal(project(source(together + apart)).embedding, projected.embedding)


def test_no_action_gives_no_item() -> None:
    assert len(project(source([]))) == 0
