import numpy as np
import pytest

from store.actions import ActionBatch, Identity, pack_code


def test_type_and_surface_travel_as_one_number() -> None:
    codes = pack_code(np.array([0, 1, 64, 255], np.uint8), np.array([255, 0, 3, 255], np.uint8))
    assert codes.dtype == np.uint16
    assert codes.tolist() == [255, 256, 64 << 8 | 3, 0xFFFF]


def test_identities_compare_in_the_order_of_a_sequence() -> None:
    order = [Identity(-5, 9, 9), Identity(0, 0, 1), Identity(0, 1, 0), Identity(0, 1, 1), Identity(1, 0, 0)]
    assert sorted(set(order)) == order


def test_a_batch_is_built_from_columns() -> None:
    one = np.ones(2, np.uint8)
    batch = ActionBatch.of([b"a", b"b"], np.array([1, 2]), np.array([3, 4], np.uint64), one, one * 2, one * 0)
    assert len(batch) == 2
    assert batch.code.tolist() == [258, 258]


def test_columns_of_different_lengths_are_not_a_batch() -> None:
    one = np.ones(2, np.uint8)
    with pytest.raises(ValueError, match=r"differ in length: \[1, 2\]"):
        ActionBatch.of([b"a"], np.array([1, 2]), np.array([3, 4], np.uint64), one, one, one)


def test_an_empty_batch_has_columns_of_the_right_types() -> None:
    batch = ActionBatch.empty()
    assert len(batch) == 0
    assert [column.dtype for column in (batch.timestamp_ms, batch.item_id, batch.code, batch.kind)] == [
        np.int64,
        np.uint64,
        np.uint16,
        np.uint8,
    ]
