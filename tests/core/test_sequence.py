import numpy as np
import pytest

from lifeline.core.actions import Identity
from lifeline.core.sequence import Column, Sequence


def test_an_event_is_every_column_but_the_embedding() -> None:
    assert Column.EVENT | Column.EMBEDDING == Column.ALL
    assert Column.EMBEDDING not in Column.EVENT
    assert set(Column.ALL) == {
        Column.TIMESTAMP_MS,
        Column.ITEM_ID,
        Column.ACTION_TYPE,
        Column.SURFACE,
        Column.EMBEDDING,
    }


def test_identities_put_type_and_surface_together() -> None:
    ones = np.ones(1, np.uint8)
    sequence = Sequence(1, 1, np.array([-7]), np.array([1 << 63], np.uint64), ones, ones * 3, None)
    assert sequence.identities() == [Identity(-7, 1 << 63, 259)]


def test_identities_need_their_columns() -> None:
    with pytest.raises(ValueError, match="request them"):
        Sequence(1, 1, np.array([1]), None, None, None, None).identities()
