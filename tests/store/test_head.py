import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store import head as head_module
from store.actions import Identity
from store.errors import CorruptRecordError, FormatVersionError
from store.head import Head, SealedPart, pack_events, segment_events, unpack_events
from tests.store.made import columns_of, rows_of

U32 = st.integers(0, (1 << 32) - 1)
IDENTITIES = st.builds(
    Identity,
    st.integers(-(1 << 63), (1 << 63) - 1),
    st.integers(0, (1 << 64) - 1),
    st.integers(0, (1 << 16) - 1),
)
ROWS = st.tuples(st.integers(-(1 << 63), (1 << 63) - 1), U32, st.integers(0, (1 << 16) - 1))
HEADS = st.builds(
    Head,
    user_id=st.binary(min_size=1, max_size=256),
    segment_first=U32,
    segment_next=U32,
    unsealed=U32,
    newest=IDENTITIES,
    sealed=st.none() | st.builds(SealedPart, U32, st.integers(0, (1 << 16) - 1), IDENTITIES, IDENTITIES),
    inline=st.lists(ROWS, max_size=40).map(lambda rows: pack_events(columns_of(rows))),
)
SEALED = SealedPart(9, 2, Identity(5, 6, 7), Identity(1, 2, 3))


@given(HEADS)
@settings(deadline=None)
def test_round_trip(head: Head) -> None:
    assert Head.unpack(head.pack()) == head


@given(HEADS)
@settings(deadline=None, max_examples=20)
def test_a_head_that_is_cut_off_or_too_long_is_corrupt(head: Head) -> None:
    data = head.pack()
    for size in range(len(data)):
        with pytest.raises(CorruptRecordError):
            Head.unpack(data[:size])
    with pytest.raises(CorruptRecordError):
        Head.unpack(data + b"\0")


@pytest.mark.parametrize("user_bytes", [1, 256])
@pytest.mark.parametrize("inline", [0, 255])
@pytest.mark.parametrize("sealed", [None, SEALED])
def test_the_extremes_fit(user_bytes: int, inline: int, sealed: SealedPart | None) -> None:
    events = pack_events(columns_of([(number, number, number) for number in range(inline)]))
    head = Head(b"x" * user_bytes, 0, 4, inline, Identity(inline, 0, 0), sealed, events)
    assert Head.unpack(head.pack()) == head


def test_the_layout_is_the_one_on_paper() -> None:
    head = Head(b"ann", 1, 2, 3, Identity(-1, 4, 5), SEALED, pack_events(columns_of([(8, 9, 10)])))
    data = head.pack()
    assert len(data) == 34 + 42 + 3 + 14
    assert data[:4] == bytes([1, 1, 1, 2])
    assert data[4:16] == bytes([1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0])
    assert data[16:34] == b"\xff" * 8 + bytes([4, 0, 0, 0, 0, 0, 0, 0, 5, 0])
    assert data[34:40] == bytes([9, 0, 0, 0, 2, 0])
    assert data[76:79] == b"ann"
    assert data[79:] == bytes([8, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 10, 0])


def test_events_are_counted_without_the_skipped_ones() -> None:
    assert Head(b"u").events == 0
    assert Head(b"u", unsealed=3).events == 3
    assert Head(b"u", unsealed=3, sealed=SEALED).events == 12


@pytest.mark.parametrize("version", [0, 2, 255])
def test_a_format_of_the_future_is_refused(version: int) -> None:
    data = bytes([version]) + Head(b"ann").pack()[1:]
    with pytest.raises(FormatVersionError, match=f"a head has format {version}"):
        Head.unpack(data)
    with pytest.raises(FormatVersionError, match=f"a segment has format {version}"):
        segment_events(bytes([version]) + bytes(14))


@given(st.lists(ROWS, max_size=30))
@settings(deadline=None)
def test_events_take_14_bytes(rows: list[tuple[int, int, int]]) -> None:
    data = pack_events(columns_of(rows))
    assert len(data) == 14 * len(rows)
    assert rows_of(unpack_events(data)) == rows
    assert rows_of(unpack_events(segment_events(head_module.SEGMENT_PREFIX + data))) == rows


@pytest.mark.parametrize("size", [1, 13, 15, 27])
def test_a_part_of_an_event_is_corrupt(size: int) -> None:
    with pytest.raises(CorruptRecordError, match="whole number of events"):
        unpack_events(bytes(size))


def test_an_empty_segment_is_corrupt() -> None:
    with pytest.raises(CorruptRecordError, match="a segment is empty"):
        segment_events(b"")


def test_unpacked_events_may_be_written_to() -> None:
    events = unpack_events(bytes(28))
    events.timestamp_ms[0] = 1
    assert events.timestamp_ms.tolist() == [1, 0]
