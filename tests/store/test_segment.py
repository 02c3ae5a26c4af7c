import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lifeline.store import chunk
from lifeline.store.errors import CorruptRecordError, FormatVersionError
from lifeline.store.segment import RAW, RUN, RUN_EVENTS, pack_events, pack_segment, unpack_events, unpack_segments
from tests.support.chunks import human, mutated
from tests.support.factories import columns_of, rows_of

ROWS = st.tuples(st.integers(-(1 << 63), (1 << 63) - 1), st.integers(0, (1 << 32) - 1), st.integers(0, (1 << 16) - 1))


@given(st.lists(ROWS, max_size=30))
def test_events_take_14_bytes(rows: list[tuple[int, int, int]]) -> None:
    data = pack_events(columns_of(rows))
    assert len(data) == 14 * len(rows)
    assert rows_of(unpack_events(data)) == rows
    assert rows_of(unpack_segments([RAW + data], b"")) == rows


@given(st.lists(st.lists(ROWS, min_size=1, max_size=RUN_EVENTS + 40).map(sorted), max_size=5), st.lists(ROWS))
def test_segments_and_inline_events_round_trip(
    parts: list[list[tuple[int, int, int]]], inline: list[tuple[int, int, int]]
) -> None:
    segments = [pack_segment(columns_of(rows)) for rows in parts]
    for data, rows in zip(segments, parts, strict=True):
        assert data[:1] == (RUN if len(rows) >= RUN_EVENTS else RAW)
        assert rows_of(unpack_segments([data], b"")) == rows
    # Run by run, and then in order of arrival.
    found = rows_of(unpack_segments(segments, pack_events(columns_of(inline))))
    runs = [row for rows in parts if len(rows) >= RUN_EVENTS for row in rows]
    raw = [row for rows in parts if len(rows) < RUN_EVENTS for row in rows]
    assert found == [*runs, *raw, *inline]


@pytest.mark.parametrize("n", [RUN_EVENTS, 300])
def test_a_run_is_smaller_than_raw_events(n: int) -> None:
    rows = columns_of(human(random.Random(n), n))
    assert len(pack_segment(rows)) < 0.7 * len(pack_events(rows))


def test_the_layout_is_the_one_on_paper() -> None:
    rows = human(random.Random(1), 70)
    assert pack_segment(columns_of([(8, 9, 10)])) == b"R" + bytes([8, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 10, 0])
    assert pack_segment(columns_of(rows)) == b"C" + chunk.encode(columns_of(rows))


@pytest.mark.parametrize("size", [1, 13, 15, 27])
def test_a_part_of_an_event_is_corrupt(size: int) -> None:
    with pytest.raises(CorruptRecordError, match="whole number of events"):
        unpack_events(bytes(size))
    # Two that are wrong are not right together.
    for segments in ([RAW + bytes(size)], [RAW + bytes(14), RAW + bytes(size), RAW + bytes(14 * 5 - size)]):
        with pytest.raises(CorruptRecordError) as caught:
            unpack_segments(segments, bytes(14))
        assert caught.value.record == f"segment {len(segments[:2]) - 1}"
    with pytest.raises(CorruptRecordError, match="whole number of events"):
        unpack_segments([], bytes(size))


@pytest.mark.parametrize("data", [b"", b"X", b"\x00" + bytes(14)])
def test_a_segment_of_another_form_is_corrupt(data: bytes) -> None:
    with pytest.raises(CorruptRecordError, match="are no segment") as caught:
        unpack_segments([RAW, data], b"")
    assert caught.value.record == "segment 1"


def test_damage_raises_nothing_but_our_own_errors() -> None:
    rng = random.Random(4)
    sources = [pack_segment(columns_of(human(random.Random(n), n))) for n in (1, 20, 64, 200)]
    decoded = 0
    for _ in range(20_000):
        source = rng.choice(sources)
        broken = mutated(rng, source, rng.choice(sources))
        try:
            found = unpack_segments([broken], b"")
        except (CorruptRecordError, FormatVersionError):
            continue
        # Raw events have no checksum of their own (RocksDB's blocks have); a run has one.
        decoded += 1
        assert broken in sources or (broken[:1] == RAW and found.n == len(broken) // 14)
    assert decoded < 15_000


def test_unpacked_events_may_be_written_to() -> None:
    events = unpack_events(bytes(28))
    events.timestamp_ms[0] = 1
    assert events.timestamp_ms.tolist() == [1, 0]
