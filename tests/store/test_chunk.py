import random
import struct

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from store import chunk
from store.errors import CorruptRecordError, FormatVersionError
from tests.store.made import columns_of, rows_of

ROWS = st.lists(
    st.tuples(
        st.one_of(st.integers(-(1 << 63), (1 << 63) - 1), st.integers(0, 3), st.integers(1 << 40, (1 << 40) + 9_999)),
        st.integers(0, (1 << 32) - 1),
        st.integers(0, (1 << 16) - 1),
    ),
    min_size=1,
    max_size=120,
).map(sorted)


def human(rng: random.Random, n: int) -> list[tuple[int, int, int]]:
    """Return n events as people make them: bursts, a few types, many items."""
    at, rows = 1_600_000_000_000, []
    for _ in range(n):
        at += rng.choice([0, 900, 4_000, 86_400_000])
        rows.append((at, rng.randrange(50_000), rng.randrange(1, 6) << 8 | rng.randrange(4)))
    return sorted(rows)


CHUNKS = [chunk.encode(columns_of(human(random.Random(n), n))) for n in (1, 3, 40, 512)]


def signed(data: bytes) -> bytes:
    """Return a chunk with the checksum that its bytes ask for."""
    return data[:24] + struct.pack("<Q", xxhash.xxh3_64_intdigest(data[:24] + data[32:])) + data[32:]


@given(ROWS)
@settings(deadline=None, max_examples=200)
def test_round_trip(rows: list[tuple[int, int, int]]) -> None:
    data = chunk.encode(columns_of(rows))
    found = chunk.decode(data)
    assert rows_of(found) == rows
    assert [column.dtype for column in found] == [np.int64, np.uint32, np.uint16]
    assert chunk.header(data)[:3] == (len(rows), rows[0][0], rows[-1][0])


@pytest.mark.parametrize("n", [1, 512, 1_023, chunk.MAX_EVENTS])
@pytest.mark.parametrize("noise", [False, True])
def test_round_trip_up_to_the_largest(n: int, noise: bool) -> None:
    # Noise does not compress: the lengths of the columns must still fit their 16 bits.
    rng = random.Random(n)
    rows = human(rng, n)
    if noise:
        rows = sorted(
            (rng.randrange(-(1 << 63), 1 << 63), rng.randrange(1 << 32), rng.randrange(1 << 16)) for _ in rows
        )
    assert rows_of(chunk.decode(chunk.encode(columns_of(rows)))) == rows


@pytest.mark.parametrize("n", [0, chunk.MAX_EVENTS + 1])
def test_a_chunk_is_never_empty_nor_too_large(n: int) -> None:
    with pytest.raises(ValueError, match="a chunk holds 1 to"):
        chunk.encode(columns_of([(0, 0, 0)] * n))


@pytest.mark.parametrize("data", CHUNKS[:3], ids=["1", "3", "40"])
def test_every_flipped_bit_is_found(data: bytes) -> None:
    for bit in range(8 * len(data)):
        broken = bytearray(data)
        broken[bit // 8] ^= 1 << bit % 8
        with pytest.raises((CorruptRecordError, FormatVersionError)):
            chunk.decode(bytes(broken))


def test_random_damage_is_found() -> None:
    rng = random.Random(7)
    for _ in range(3_000):
        data = rng.choice(CHUNKS)
        broken = bytearray(data)
        match rng.randrange(5):
            case 0:
                for _ in range(rng.randrange(1, 9)):
                    broken[rng.randrange(len(broken))] = rng.randrange(256)
            case 1:
                del broken[rng.randrange(len(broken)) :]
            case 2:
                broken += rng.randbytes(rng.randrange(1, 40))
            case 3:
                at = rng.randrange(len(broken))
                broken[at : at + rng.randrange(1, 64)] = rng.randbytes(rng.randrange(64))
            case _:
                at = rng.randrange(len(broken))
                del broken[at : at + rng.randrange(1, 16)]
        if bytes(broken) == data:
            continue
        with pytest.raises((CorruptRecordError, FormatVersionError)):
            chunk.decode(bytes(broken))


def test_damage_behind_a_right_checksum_never_gets_past_our_own_errors() -> None:
    # Nobody else's exception, and no more events than the header may claim.
    rng = random.Random(8)
    outcomes = {"decoded": 0, "refused": 0}
    for _ in range(1_500):
        broken = bytearray(rng.choice(CHUNKS))
        for _ in range(rng.randrange(1, 6)):
            broken[rng.randrange(2, len(broken))] = rng.randrange(256)
        if rng.random() < 0.2:
            del broken[rng.randrange(32, len(broken)) :]
        try:
            found = chunk.decode(signed(bytes(broken)))
            assert 1 <= found.n <= chunk.MAX_EVENTS
            outcomes["decoded"] += 1
        except CorruptRecordError:
            outcomes["refused"] += 1
    assert outcomes["refused"] > 100


@pytest.mark.parametrize(
    ("at", "value"),
    [(2, 0), (2, chunk.MAX_EVENTS + 1), (2, 0xFFFF), (4, 0xFFFF), (6, 0xFFFF), (4, 0), (6, 0)],
    ids=["no-event", "one-too-many", "n-max", "timestamps-beyond", "ordinals-beyond", "no-timestamps", "no-ordinals"],
)
def test_sizes_are_checked_before_anything_is_made_of_them(
    at: int, value: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = bytearray(CHUNKS[2])
    struct.pack_into("<H", broken, at, value)
    made: list[int] = []
    real = np.empty

    def empty(size: int, dtype: type[np.generic]) -> object:
        made.append(size)
        return real(size, dtype)

    monkeypatch.setattr(np, "empty", empty)
    with pytest.raises(CorruptRecordError):
        chunk.decode(signed(bytes(broken)))
    assert all(size == 40 for size in made)


@pytest.mark.parametrize("n", [1, 39, 41, chunk.MAX_EVENTS])
def test_a_header_that_counts_other_events_than_its_columns_is_corrupt(n: int) -> None:
    broken = bytearray(CHUNKS[2])
    struct.pack_into("<H", broken, 2, n)
    with pytest.raises(CorruptRecordError):
        chunk.decode(signed(bytes(broken)))


@pytest.mark.parametrize(("at", "value"), [(0, 2), (0, 0), (1, 1), (1, 0x80)])
def test_a_format_of_the_future_is_refused(at: int, value: int) -> None:
    broken = bytearray(CHUNKS[1])
    broken[at] = value
    with pytest.raises(FormatVersionError, match="this program reads format 1"):
        chunk.decode(signed(bytes(broken)))


def test_nothing_is_not_a_chunk() -> None:
    for size in range(33):
        with pytest.raises(CorruptRecordError):
            chunk.decode(bytes(size))


def test_the_header_is_read_without_the_columns() -> None:
    head = chunk.header(CHUNKS[3])
    events = chunk.decode(CHUNKS[3])
    assert (head.n, head.first_timestamp_ms, head.last_timestamp_ms) == (
        512,
        events.timestamp_ms[0],
        events.timestamp_ms[-1],
    )
    broken = bytearray(CHUNKS[3])
    broken[-1] ^= 1
    with pytest.raises(CorruptRecordError, match="checksum"):
        chunk.header(bytes(broken))


def test_rows_are_taken_and_joined() -> None:
    events = columns_of([(1, 2, 3), (4, 5, 6), (7, 8, 9)])
    assert rows_of(events.take(np.array([2, 0]))) == [(7, 8, 9), (1, 2, 3)]
    assert rows_of(events.take(np.array([False, True, False]))) == [(4, 5, 6)]
    joined = chunk.EventColumns.concatenate([events, events.take(slice(0, 1))])
    assert rows_of(joined) == [(1, 2, 3), (4, 5, 6), (7, 8, 9), (1, 2, 3)]
    nothing = chunk.EventColumns.concatenate([])
    assert nothing.n == 0
    assert nothing.ordinal.dtype == np.uint32
