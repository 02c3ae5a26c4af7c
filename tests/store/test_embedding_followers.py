import itertools
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from lifeline.store.embeddings import EmbeddingTable, SecondaryEmbeddings
from lifeline.store.errors import StoreError
from tests.support.embeddings import apply


def test_a_follower_claims_no_offset_whose_items_it_does_not_show(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, follower = EmbeddingTable.open(tmp_path), SecondaryEmbeddings.open(tmp_path)
    real, offsets = follower._files.item_ids, itertools.count()

    def item_ids(first: int) -> NDArray[np.uint64]:
        found = real(first)
        # The writer goes on the moment after.
        offset = next(offsets)
        apply(table, [(offset, 1)], offset)
        table.sync()
        return found

    monkeypatch.setattr(follower._files, "item_ids", item_ids)
    assert follower.catch_up()[:3] == (0, 1, {})
    assert follower.catch_up()[:3] == (1, 1, {0: 0})
    follower.close()
    table.close()


def test_a_follower_needs_a_table(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="holds no embeddings"):
        SecondaryEmbeddings.open(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_follower_notices_a_table_that_was_made_anew(tmp_path: Path) -> None:
    EmbeddingTable.open(tmp_path / "items").close()
    follower = SecondaryEmbeddings.open(tmp_path / "items")
    (tmp_path / "items").rename(tmp_path / "aside")
    EmbeddingTable.open(tmp_path / "items").close()
    with pytest.raises(StoreError, match="replaced by another table"):
        follower.catch_up()
    follower.close()
