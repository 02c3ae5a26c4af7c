import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lifeline.core.action_types import bit_column, bits_of, ids_of


@pytest.mark.parametrize(
    ("ids", "bits"),
    [([], 0), ([1], 1), ([64], 1 << 63), ([5, 1], 0b10001), ([2, 2], 0b10), (range(1, 65), (1 << 64) - 1)],
)
def test_an_id_is_the_bit_below_it(ids: list[int], bits: int) -> None:
    assert bits_of(ids) == bits


@given(st.sets(st.integers(1, 64)))
def test_a_set_comes_back_ascending(ids: set[int]) -> None:
    assert ids_of(bits_of(ids)) == sorted(ids)


def test_a_column_has_the_bit_of_each_row() -> None:
    column = np.array([1, 64, 2, 1], np.uint8)
    assert bit_column(column).tolist() == [bits_of([action_type]) for action_type in column.tolist()]
    assert bit_column(column).dtype == np.uint64
    assert len(bit_column(column[:0])) == 0
