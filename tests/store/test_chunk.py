import json
import random
import struct
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import xxhash
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lifeline.store import chunk
from lifeline.store.chunk import Chunk, ColumnSelection, EventColumns
from lifeline.store.errors import CorruptRecordError, FormatVersionError
from tests.support.chunks import human, mutated, signed
from tests.support.factories import columns_of, rows_of
from tests.support.processes import child, said

SPAN = 1 << 32
LOW, HIGH = -(1 << 63), (1 << 63) - 1
ORDINALS = st.integers(0, (1 << 32) - 1)
TIMES = st.one_of(
    # Anything; a few; milliseconds and whole seconds that fit 32 bits; and spans that just do, or just do not.
    st.integers(LOW, HIGH),
    st.integers(0, 3),
    st.integers(1 << 40, (1 << 40) + 9_999),
    st.integers(-5, 5).map(lambda second: second * 1_000),
    st.integers(SPAN - 2, SPAN + 2),
    st.integers(SPAN - 2, SPAN + 2).map(lambda second: second * 1_000),
    st.sampled_from([LOW, HIGH, LOW + 808, HIGH - 807]),
)
ROWS = st.lists(st.tuples(TIMES, ORDINALS, st.integers(0, (1 << 16) - 1)), min_size=1, max_size=120).map(sorted)
WHOLE_SECONDS = st.lists(
    st.tuples(st.integers(-(1 << 40), 1 << 40).map(lambda at: at * 1_000), ORDINALS, st.just(257)), min_size=1
).map(sorted)


def noise(rng: random.Random, n: int) -> list[tuple[int, int, int]]:
    """Return n events that do not compress."""
    return sorted((rng.randrange(LOW, HIGH), rng.randrange(1 << 32), rng.randrange(1 << 16)) for _ in range(n))


CHUNKS = [
    *(chunk.encode(columns_of(human(random.Random(n), n))) for n in (1, 3, 40, 512)),
    chunk.encode(columns_of(human(random.Random(5), 90, (0, 3_000, 60_000)))),
    chunk.encode(columns_of(noise(random.Random(6), 60))),
]


@given(ROWS)
@example([(LOW, 0, 0), (HIGH, 0, 0)])
@example([(LOW, 0, 0), (LOW + SPAN, 0, 0)])
@example([(0, 0, 0), (SPAN - 1, 0, 0)])
@example([(0, 0, 0), (SPAN, 0, 0)])
@example([(-1_000, 0, 0), ((SPAN - 2) * 1_000, 0, 0)])
@example([(-1_000, 0, 0), ((SPAN - 1) * 1_000, 0, 0)])
@settings(max_examples=300)
def test_round_trip(rows: list[tuple[int, int, int]]) -> None:
    data = chunk.encode(columns_of(rows))
    found = chunk.decode(data)
    assert rows_of(found) == rows
    assert [column.dtype for column in found] == [np.int64, np.uint32, np.uint16]
    opened = Chunk.open(data)
    assert (opened.n, opened.first_timestamp_ms, opened.last_timestamp_ms) == (len(rows), rows[0][0], rows[-1][0])
    assert 32 + opened.timestamp_bytes + opened.ordinal_bytes + opened.code_bytes == len(data)


@given(WHOLE_SECONDS)
def test_whole_seconds_round_trip(rows: list[tuple[int, int, int]]) -> None:
    data = chunk.encode(columns_of(rows))
    assert rows_of(chunk.decode(data)) == rows
    fits = rows[-1][0] - rows[0][0] < SPAN * 1_000
    assert Chunk.open(data).encoding == ("uint32 s" if fits else "int64 ms")


@pytest.mark.parametrize(
    ("last", "encoding"),
    [
        (0, "uint32 s"),
        (1, "uint32 ms"),
        ((SPAN - 1) * 1_000, "uint32 s"),
        (SPAN * 1_000, "int64 ms"),
        (SPAN - 1, "uint32 ms"),
        (SPAN, "int64 ms"),
        (HIGH, "int64 ms"),
    ],
)
def test_timestamps_are_held_in_the_narrowest_way_that_fits(last: int, encoding: str) -> None:
    rows = [(0, 1, 2), (last, 3, 4)]
    data = chunk.encode(columns_of(rows))
    assert Chunk.open(data).encoding == encoding
    assert rows_of(chunk.decode(data)) == rows


def test_whole_seconds_cost_no_more_than_seconds() -> None:
    rows = human(random.Random(1), 512, (0, 3_000, 60_000))
    near = chunk.encode(columns_of(rows))
    shifted = chunk.encode(
        columns_of([(at + (number % 2), item, code) for number, (at, item, code) in enumerate(rows)])
    )
    assert Chunk.open(near).timestamp_bytes * 1.5 < Chunk.open(shifted).timestamp_bytes


@pytest.mark.parametrize("n", [1, 2, 511, 512, 1_023, 2_049, chunk.MAX_EVENTS])
@pytest.mark.parametrize("make", [human, noise])
def test_round_trip_up_to_the_largest(n: int, make: Callable[[random.Random, int], list[tuple[int, int, int]]]) -> None:
    # Noise does not compress: the lengths of the columns must still fit their 16 bits.
    rows = make(random.Random(n), n)
    assert rows_of(chunk.decode(chunk.encode(columns_of(rows)))) == rows


@given(st.integers(1, chunk.MAX_EVENTS), st.integers(0, 1 << 32), st.sampled_from([1, 1_000, SPAN, 1_000 * SPAN]))
@settings(max_examples=60)
def test_any_number_of_events_round_trips(n: int, seed: int, step: int) -> None:
    rng = np.random.default_rng(seed)
    times = np.sort(rng.integers(0, 1_000, n)) * min(step, (1 << 62) // 1_000)
    events = EventColumns(
        times - (1 << 61),
        rng.integers(0, 1 << 32, n, np.uint32),
        rng.integers(0, 1 << 16, n, np.uint16),
    )
    decoded: list[Any] = list(chunk.decode(chunk.encode(events)))
    assert all(np.array_equal(found, column) for found, column in zip(decoded, list[Any](events), strict=True))


@pytest.mark.parametrize("n", [0, chunk.MAX_EVENTS + 1])
def test_a_chunk_is_never_empty_nor_too_large(n: int) -> None:
    with pytest.raises(ValueError, match="a chunk holds 1 to"):
        chunk.encode(columns_of([(0, 0, 0)] * n))


@pytest.mark.parametrize("data", CHUNKS, ids=["1", "3", "40", "512", "seconds", "noise"])
def test_each_column_is_decoded_alone(data: bytes) -> None:
    # Into a part of a longer array, without a look at the other columns: they may be gone.
    whole, opened = chunk.decode(data), Chunk.open(data)
    n, ends = opened.n, [32, 32 + opened.timestamp_bytes, 32 + opened.timestamp_bytes + opened.ordinal_bytes, len(data)]
    for number, (start, end) in enumerate(pairwise(ends)):
        alone = bytearray(len(data))
        alone[:32], alone[start:end] = data[:32], data[start:end]
        into = EventColumns.empty(n + 2)
        columns: list[Any] = list(into)
        for column in columns:
            column.fill(7)
        only = ColumnSelection(*(other == number for other in range(3)))
        chunk.decode_all([Chunk.open(signed(bytes(alone)))], into, only)
        assert np.array_equal(into[number][:n], whole[number])
        assert into[number][n:].tolist() == [7] * 2
        assert all((column == 7).all() for other, column in enumerate(columns) if other != number)


@given(
    st.lists(st.sampled_from(CHUNKS), max_size=6),
    st.builds(ColumnSelection, st.booleans(), st.booleans(), st.booleans()),
)
def test_chunks_are_decoded_one_behind_the_other(several: list[bytes], selection: ColumnSelection) -> None:
    # Milliseconds, whole seconds and wide spans in any order.
    parts = [chunk.decode(data) for data in several]
    whole = EventColumns.concatenate(parts)
    into = EventColumns.empty(whole.n + 3)
    for column in into:
        column.fill(7)
    chunk.decode_all([Chunk.open(data) for data in several], into, selection)
    columns: list[Any] = list(into)
    for found, expected, is_selected in zip(columns, list[Any](whole), selection, strict=True):
        assert np.array_equal(found[: whole.n], expected) if is_selected else (found[: whole.n] == 7).all()
        assert found[whole.n :].tolist() == [7] * 3


def test_a_chunk_that_does_not_decode_is_found_among_others() -> None:
    for at, value in ((8, 1), (16, 1)):
        broken = bytearray(CHUNKS[2])
        broken[at] = value
        chunks = [Chunk.open(data) for data in (CHUNKS[3], signed(bytes(broken)), CHUNKS[5], CHUNKS[4])]
        with pytest.raises(CorruptRecordError):
            chunk.decode_all(chunks, EventColumns.empty(1_000))


@pytest.mark.parametrize("data", [*CHUNKS[:3], CHUNKS[5]], ids=["1", "3", "40", "noise"])
def test_every_flipped_bit_is_found(data: bytes) -> None:
    for bit in range(8 * len(data)):
        broken = bytearray(data)
        broken[bit // 8] ^= 1 << bit % 8
        with pytest.raises((CorruptRecordError, FormatVersionError)):
            chunk.decode(bytes(broken))


def test_a_hundred_thousand_damages_are_found() -> None:
    rng = random.Random(7)
    whole, missed = 0, list[bytes]()
    for _ in range(100_000):
        source = rng.choice(CHUNKS)
        broken = mutated(rng, source, rng.choice(CHUNKS))
        if broken in CHUNKS:
            whole += 1
            continue
        try:
            chunk.decode(broken)
            missed.append(broken)
        except (CorruptRecordError, FormatVersionError):
            pass
    assert not missed
    assert whole < 5_000


# In a process of its own: a crash of it, or memory without bounds, is a failure of the test and not its end. pco itself
# believes up to 2^24 numbers, which it reserves 134 MB for.
GARBAGE = """
import collections, json, random, resource, sys
from lifeline.store import chunk
from lifeline.store.errors import CorruptRecordError, FormatVersionError
from tests.support.chunks import signed
from tests.store.test_chunk import CHUNKS, garbage
rng = random.Random(int(sys.argv[1]))
for data in CHUNKS:
    chunk.decode(data)
def size():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size() + (256 << 20),) * 2)
outcomes = collections.Counter()
for _ in range(100_000):
    data = garbage(rng)
    try:
        found = chunk.decode(data)
        n = int.from_bytes(data[2:4], "little")
        outcomes["decoded" if {len(column) for column in found} == {n} else "of another length"] += 1
    except (CorruptRecordError, FormatVersionError) as error:
        outcomes[type(error).__name__] += 1
    except BaseException as error:
        outcomes[f"{type(error).__name__} {error} {data.hex()}"] += 1
print("outcomes", json.dumps(outcomes), flush=True)
sys.stdin.read()
"""


def garbage(rng: random.Random) -> bytes:
    """Return a chunk that is damaged, and whose checksum says that it is not: pco sees the garbage."""
    source = rng.choice(CHUNKS)
    data = bytearray(source)
    timestamps, ordinals = struct.unpack_from("<HH", data, 4)
    starts = [32, 32 + timestamps, 32 + timestamps + ordinals]
    match rng.randrange(8):
        case 0:
            return signed(mutated(rng, source, rng.choice(CHUNKS))[:32].ljust(32, b"\0") + source[32:])
        case 1:
            return signed(source[:32] + mutated(rng, source[32:], rng.choice(CHUNKS)[32:]))
        case 2:
            struct.pack_into("<H", data, 2, rng.choice([1, 2, len(data), chunk.MAX_EVENTS, rng.randrange(1 << 16)]))
        case 3:
            struct.pack_into("<HH", data, 4, timestamps + rng.randrange(-9, 9) & 0xFFFF, rng.randrange(ordinals + 9))
        case 4:
            data[1] = rng.randrange(4)
        case _:
            # Where a column begins, pco keeps its own header: sizes, modes, tables.
            for _ in range(rng.randrange(1, 4)):
                at = min(len(data) - 1, rng.choice(starts) + rng.randrange(24))
                data[at] = rng.choice([data[at] ^ 1 << rng.randrange(8), rng.randrange(256)])
    return signed(bytes(data))


def test_damage_behind_a_right_checksum_never_gets_past_our_own_errors() -> None:
    with child(GARBAGE, 8) as process:
        outcomes = json.loads(said(process, "outcomes"))
    assert set(outcomes) <= {"decoded", "CorruptRecordError", "FormatVersionError"}, outcomes
    assert outcomes["CorruptRecordError"] > 50_000
    assert outcomes["decoded"] > 1_000


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
    allocations: list[int] = []
    real = np.empty

    def empty(size: int, dtype: type[np.generic]) -> object:
        allocations.append(size)
        return real(size, dtype)

    monkeypatch.setattr(np, "empty", empty)
    with pytest.raises(CorruptRecordError):
        chunk.decode(signed(bytes(broken)))
    assert all(size == 40 for size in allocations)


@pytest.mark.parametrize("n", [1, 39, 41, chunk.MAX_EVENTS])
def test_a_header_that_counts_other_events_than_its_columns_is_corrupt(n: int) -> None:
    broken = bytearray(CHUNKS[2])
    struct.pack_into("<H", broken, 2, n)
    opened = Chunk.open(signed(bytes(broken)))
    for number in range(3):
        with pytest.raises(CorruptRecordError):
            chunk.decode_all(
                [opened], EventColumns.empty(n), ColumnSelection(*(column == number for column in range(3)))
            )


@pytest.mark.parametrize(("at", "value"), [(8, 1), (16, 1), (1, 0), (1, 3)], ids=["first", "last", "wide", "seconds"])
def test_timestamps_that_do_not_fit_the_header_are_corrupt(at: int, value: int) -> None:
    broken = bytearray(CHUNKS[2])
    broken[at] = value
    with pytest.raises(CorruptRecordError):
        chunk.decode(signed(bytes(broken)))


@pytest.mark.parametrize(("at", "value"), [(0, 3), (0, 1), (0, 0), (1, 4), (1, 0x80)])
def test_a_format_of_the_future_is_refused(at: int, value: int) -> None:
    broken = bytearray(CHUNKS[1])
    broken[at] = value
    with pytest.raises(FormatVersionError, match="this program reads format 2"):
        chunk.decode(signed(bytes(broken)))


def test_nothing_is_not_a_chunk() -> None:
    for size in range(33):
        with pytest.raises(CorruptRecordError):
            chunk.decode(bytes(size))


def test_a_chunk_is_opened_without_its_columns() -> None:
    opened = Chunk.open(CHUNKS[3])
    events = chunk.decode(CHUNKS[3])
    assert (opened.n, opened.first_timestamp_ms, opened.last_timestamp_ms) == (
        512,
        events.timestamp_ms[0],
        events.timestamp_ms[-1],
    )
    broken = bytearray(CHUNKS[3])
    broken[-1] ^= 1
    with pytest.raises(CorruptRecordError, match="checksum"):
        Chunk.open(bytes(broken))


def test_the_layout_is_the_one_on_paper() -> None:
    data = chunk.encode(columns_of([(5_000, 1, 2), (9_000, 3, 4)]))
    assert data[:4] == bytes([2, 3, 2, 0])
    assert struct.unpack_from("<qq", data, 8) == (5_000, 9_000)
    assert struct.unpack_from("<Q", data, 24)[0] == xxhash.xxh3_64_intdigest(data[:24] + data[32:])
    assert chunk.encode(columns_of([(5_001, 1, 2)]))[1] == 1
    assert chunk.encode(columns_of([(LOW, 1, 2), (HIGH, 1, 2)]))[1] == 0


def test_rows_are_taken_and_joined() -> None:
    events = columns_of([(1, 2, 3), (4, 5, 6), (7, 8, 9)])
    assert rows_of(events.take(np.array([2, 0]))) == [(7, 8, 9), (1, 2, 3)]
    assert rows_of(events.take(np.array([False, True, False]))) == [(4, 5, 6)]
    joined = EventColumns.concatenate([events, events.take(slice(0, 1))])
    assert rows_of(joined) == [(1, 2, 3), (4, 5, 6), (7, 8, 9), (1, 2, 3)]
    nothing = EventColumns.concatenate([])
    assert nothing.n == 0
    assert nothing.ordinal.dtype == np.uint32
