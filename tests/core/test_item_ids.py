from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lifeline.core.item_ids import exact_item_ids

_TOP = (1 << 64) - 1


@given(st.lists(st.integers(0, _TOP)))
def test_integers_stay_what_they_are(ids: list[int]) -> None:
    for values in (ids, tuple(ids), np.array(ids, np.uint64), np.array(ids, object), list(np.array(ids, np.uint64))):
        found = exact_item_ids(values)
        assert found.dtype == np.uint64
        assert found.tolist() == ids


@pytest.mark.parametrize("dtype", [np.int8, np.int64, np.uint32, ">u8", np.float32, np.float64])
def test_any_type_of_exact_integers_will_do(dtype: str) -> None:
    assert exact_item_ids(np.array([0, 7, 100], dtype)).tolist() == [0, 7, 100]


def test_floats_are_exact_below_two_to_53() -> None:
    values: list[Any] = [2.0**53 - 1, 3, np.float64(4)]
    assert exact_item_ids(values).tolist() == [(1 << 53) - 1, 3, 4]


@pytest.mark.parametrize(
    "value", [-1, 1 << 64, 0.5, float("nan"), float("inf"), 2.0**53, True, "7", b"7", None, Decimal(7), np.int64(-1)]
)
def test_what_is_no_exact_integer_is_named(value: object) -> None:
    with pytest.raises(ValueError, match=r"^item id 1 is .*: give integers"):
        exact_item_ids([3, value])  # type: ignore[list-item]


@pytest.mark.parametrize(
    "values",
    [
        np.array([1, -1]),
        np.array([1.0, np.nan]),
        np.array([1.0, -0.5]),
        np.array([1, 2.0**63]),
        np.array([1, -np.inf], np.float32),
        np.array([1, np.nan], object),
        np.array(["1", "2"]),
        np.array([True, False]),
        np.array([1, 2], "m8[s]"),
    ],
)
def test_arrays_of_anything_else_are_refused(values: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"^item id \d is .*: give integers"):
        exact_item_ids(values)


def test_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \[1, 2\]"):
        exact_item_ids(np.array([[1, 2]]))
