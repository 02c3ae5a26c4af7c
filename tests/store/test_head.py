import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lifeline.store.errors import CorruptRecordError, FormatVersionError
from lifeline.store.head import LOWEST, Head, SealedPart
from lifeline.store.segment import pack_events, unpack_events
from tests.support.factories import columns_of
from tests.support.heads import IDS, SEALED, damaged, heads


def made(at: int | None, inline: bytes, **fields: Any) -> Head:
    """Return a head whose newest event is number `at` of the inline ones, or (99, 0, 0) and not inline."""
    head = Head(inline=inline, **fields)
    if at is None:
        head.set_newest_identity((99, 0, 0))
    else:
        head.newest_ms, head.newest_at = int(unpack_events(inline).timestamp_ms[at]), at
    return head


@given(heads())
@settings(max_examples=200)
def test_round_trip(head: Head) -> None:
    found = Head.unpack(head.pack(), len(IDS))
    assert found == head
    assert found.newest(IDS) == head.newest(IDS)
    assert found.newest(IDS)[0] == found.newest_ms


@given(heads())
@settings(max_examples=20)
def test_a_head_that_is_cut_off_or_too_long_is_corrupt(head: Head) -> None:
    data = head.pack()
    for size in range(len(data)):
        with pytest.raises(CorruptRecordError):
            Head.unpack(data[:size], len(IDS))
    with pytest.raises(CorruptRecordError):
        Head.unpack(data + b"\0", len(IDS))


@given(heads(), st.integers(0, 1 << 32))
@settings(max_examples=200)
def test_damage_raises_nothing_but_our_own_errors(head: Head, seed: int) -> None:
    # A head has no checksum of its own (RocksDB's blocks have): what is read from damage still fits its bytes.
    rng, data = random.Random(seed), head.pack()
    for _ in range(50):
        broken = damaged(data, rng)
        try:
            found = Head.unpack(broken, len(IDS))
        except (CorruptRecordError, FormatVersionError):
            continue
        assert found.events >= len(found.inline) // 14 >= 0
        assert found.newest_at is None or found.newest_at < len(found.inline) // 14
        assert Head.unpack(found.pack(), len(IDS)) == found


@pytest.mark.parametrize("inline", [1, 255])
@pytest.mark.parametrize("sealed", [None, SEALED])
@pytest.mark.parametrize("at", [None, 0, 254])
def test_the_extremes_fit(inline: int, sealed: SealedPart | None, at: int | None) -> None:
    at = at if at is None else min(at, inline - 1)
    events = pack_events(columns_of([(number, number % 4, number) for number in range(inline)]))
    head = made(at, events, segments=255, runs=255, in_segments=(1 << 32) - 1, sealed=sealed, expiry_hour=(1 << 32) - 1)
    assert Head.unpack(head.pack(), len(IDS)) == head
    assert head.newest(IDS) == ((99, 0, 0) if at is None else (at, IDS.item(at % 4), at))


@pytest.mark.parametrize(("segments", "runs", "events"), [(0, 0, 0), (0, 0, 1), (2, 3, 9), (2, 0, 1)])
def test_segments_that_cannot_be_are_corrupt(segments: int, runs: int, events: int) -> None:
    data = made(None, b"", segments=1, runs=1, in_segments=7).pack()
    assert data.endswith(bytes([1, 1, 7, 0, 0, 0]))
    with pytest.raises(CorruptRecordError, match=f"{segments} segments, {runs} of them runs, of {events} events"):
        Head.unpack(data[:-6] + bytes([segments, runs, events, 0, 0, 0]), len(IDS))


def test_the_layout_is_the_one_on_paper() -> None:
    inline = pack_events(columns_of([(8, 1, 10), (9, 3, 11)]))
    event = bytes([8, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 10, 0])
    other = bytes([9, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 11, 0])
    assert made(1, inline).pack() == bytes([2, 0, 2, 1]) + event + other
    head = made(None, inline, segments=3, runs=2, in_segments=9, sealed=SEALED, expiry_hour=77)
    head.set_newest_identity((-1, 4, 5))
    data = head.pack()
    assert len(data) == 4 + 18 + 6 + 42 + 4 + 28
    assert data[:4] == bytes([2, 15, 2, 0])
    assert data[4:22] == b"\xff" * 8 + bytes([4, 0, 0, 0, 0, 0, 0, 0, 5, 0])
    assert data[22:28] == bytes([3, 2, 9, 0, 0, 0])
    assert data[28:34] == bytes([9, 0, 0, 0, 2, 0])
    assert data[34:42] == bytes([5, 0, 0, 0, 0, 0, 0, 0])
    assert data[52:60] == bytes([1, 0, 0, 0, 0, 0, 0, 0])
    assert data[70:74] == bytes([77, 0, 0, 0])
    assert data[74:] == event + other


def test_a_short_sequence_is_four_bytes_and_its_events() -> None:
    head = Head()
    head.append(pack_events(columns_of([(5, 0, 1)])), 5)
    assert len(head.pack()) == 4 + 14


def test_events_are_counted_without_the_skipped_ones() -> None:
    assert Head().events == 0
    assert Head(in_segments=3, segments=1).events == 3
    assert Head(in_segments=3, segments=1, sealed=SEALED, inline=bytes(28)).events == 14
    assert Head(in_segments=3, segments=1, sealed=SEALED, inline=bytes(28)).unsealed == 5


def test_what_is_appended_last_is_the_newest() -> None:
    head = Head()
    assert head.newest(IDS) == LOWEST
    assert head.append(pack_events(columns_of([(5, 0, 1), (6, 1, 1)])), 6) == 2
    assert (head.newest(IDS), head.newest_ms, head.newest_at) == ((6, 7, 1), 6, 1)
    head.in_segments = 3
    assert head.append(pack_events(columns_of([(7, 3, 1)])), 7) == 6
    assert (head.newest(IDS), head.newest_ms, head.newest_at) == ((7, (1 << 64) - 1, 1), 7, 2)
    head.set_newest_identity(head.newest(IDS))
    assert (head.newest(IDS), head.newest_ms, head.newest_at) == ((7, (1 << 64) - 1, 1), 7, None)


@pytest.mark.parametrize("version", [0, 1, 3, 255])
def test_a_format_of_the_future_is_refused(version: int) -> None:
    data = bytes([version]) + made(None, b"", sealed=SEALED).pack()[1:]
    with pytest.raises(FormatVersionError, match=f"a head has format {version}"):
        Head.unpack(data, len(IDS))


@pytest.mark.parametrize("flags", [16, 128, 255])
def test_flags_of_the_future_are_refused(flags: int) -> None:
    data = bytearray(made(None, b"", sealed=SEALED).pack())
    data[1] = flags
    with pytest.raises(FormatVersionError, match=f"format 2 with flags {flags}"):
        Head.unpack(bytes(data), len(IDS))


def test_a_newest_event_that_is_not_there_is_corrupt() -> None:
    data = bytearray(made(1, pack_events(columns_of([(4, 0, 1), (5, 1, 1)]))).pack())
    with pytest.raises(CorruptRecordError, match="item ordinal 1, and the partition has 1 items"):
        Head.unpack(bytes(data), 1)
    data[3] = 2
    with pytest.raises(CorruptRecordError, match="2 inline events says that number 2 is the newest"):
        Head.unpack(bytes(data), len(IDS))
