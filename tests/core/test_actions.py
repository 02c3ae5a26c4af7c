from datetime import UTC, datetime

import numpy as np
import pytest

from lifeline.core.actions import MAX_TIMESTAMP_MS, NO_LOG_TIME, ActionBatch, Identity, pack_code
from tests.support.factories import Event, batch_of


def test_type_and_surface_travel_as_one_number() -> None:
    codes = pack_code(np.array([0, 1, 64, 255], np.uint8), np.array([255, 0, 3, 255], np.uint8))
    assert codes.dtype == np.uint16
    assert codes.tolist() == [255, 256, 64 << 8 | 3, 0xFFFF]


def test_identities_compare_in_the_order_of_a_sequence() -> None:
    order = [Identity(-5, 9, 9), Identity(0, 0, 1), Identity(0, 1, 0), Identity(0, 1, 1), Identity(1, 0, 0)]
    assert sorted(set(order)) == order


def test_a_batch_is_built_from_columns() -> None:
    ones = np.ones(2, np.uint8)
    batch = ActionBatch.of(
        [b"a", b"b"], np.array([1, 2]), np.array([3, 4], np.uint64), ones, ones * 2, ones * 0, np.ones(2, np.int64)
    )
    assert len(batch) == 2
    assert batch.code.tolist() == [258, 258]


def test_columns_of_different_lengths_are_not_a_batch() -> None:
    ones = np.ones(2, np.uint8)
    with pytest.raises(ValueError, match=r"differ in length: \[1, 2\]"):
        ActionBatch.of([b"a"], np.array([1, 2]), np.array([3, 4], np.uint64), ones, ones, ones, np.ones(2, np.int64))


def test_an_event_time_after_2099_is_refused() -> None:
    batch_of([Event(b"a", MAX_TIMESTAMP_MS, 1, 2)])
    assert datetime.fromtimestamp(MAX_TIMESTAMP_MS / 1_000, UTC) == datetime(2100, 1, 1, tzinfo=UTC)
    for beyond in (MAX_TIMESTAMP_MS + 1, 1 << 62, (1 << 63) - 1):
        with pytest.raises(ValueError, match=rf"timestamp_ms {beyond}, after the year 2099: give milliseconds"):
            batch_of([Event(b"a", 1, 1, 2), Event(b"a", beyond, 1, 2)])


def test_the_watermark_of_a_batch_is_never_later_than_its_log() -> None:
    of_log = [Event(b"a", 50, 1, 2, logged_ms=40), Event(b"a", 30, 1, 2, logged_ms=90)]
    assert batch_of(of_log).watermark_ms == 40
    assert batch_of([*of_log, Event(b"a", 99, 1, 2, logged_ms=NO_LOG_TIME)]).watermark_ms == 40
    assert batch_of([Event(b"a", 99, 1, 2, logged_ms=NO_LOG_TIME)]).watermark_ms == NO_LOG_TIME


def test_an_empty_batch_has_columns_of_the_right_types() -> None:
    batch = ActionBatch.empty()
    assert len(batch) == 0
    assert [column.dtype for column in (batch.timestamp_ms, batch.item_id, batch.code, batch.kind)] == [
        np.int64,
        np.uint64,
        np.uint16,
        np.uint8,
    ]
