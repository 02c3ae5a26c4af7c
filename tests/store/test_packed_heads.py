import random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from lifeline.store.errors import CorruptRecordError, FormatVersionError
from lifeline.store.head import Head
from lifeline.store.packed_heads import PackedHeads
from lifeline.store.segment import EVENT_BYTES, pack_events
from tests.support.factories import columns_of
from tests.support.heads import IDS, damaged, heads


def read(data: bytes) -> Head | None:
    try:
        return Head.unpack(data, len(IDS))
    except (CorruptRecordError, FormatVersionError):
        return None


def check(records: list[bytes]) -> int:
    """Assert that the columns say of each record what the record says; returns how many are sound."""
    found = PackedHeads.read(records, len(IDS))
    expected = [read(record) for record in records]
    assert found.valid.tolist() == [head is not None for head in expected]
    for row, head in enumerate(expected):
        if head is not None:
            assert found.newest_ms[row] == head.newest_ms
            assert found.inline[row] == len(head.inline) // EVENT_BYTES
            assert found.unsealed[row] == head.unsealed
            assert found.events[row] == head.events
            assert found.has_hour[row] == (head.expiry_hour is not None)
    return int(found.valid.sum())


@given(st.lists(heads(), min_size=1, max_size=30))
def test_the_columns_say_what_the_records_say(samples: list[Head]) -> None:
    assert check([head.pack() for head in samples]) == len(samples)


@given(st.lists(heads(), min_size=1, max_size=30), st.integers(0, 1 << 32))
@settings(max_examples=200)
def test_damage_is_found_where_reading_the_record_finds_it(samples: list[Head], seed: int) -> None:
    rng = random.Random(seed)
    records = [head.pack() for head in samples]
    check([damaged(record, rng) if rng.random() < 0.7 else record for record in records])


def test_records_of_no_bytes_and_no_records() -> None:
    assert check([b""]) == 0
    assert check([b"", b"\2", Head().pack(), b""]) == 1
    assert check([]) == 0


@given(st.lists(st.tuples(heads(), st.integers(1, 9)), min_size=1, max_size=20))
def test_an_appended_record_is_the_one_that_an_object_packs(samples: list[tuple[Head, int]]) -> None:
    records = [head.pack() for head, _ in samples]
    found = PackedHeads.read(records, len(IDS))
    counts = np.array([count for _, count in samples])
    starts, tails = found.starts(counts), found.tails()
    for row, (head, count) in enumerate(samples):
        more = pack_events(columns_of([(row, number % len(IDS), 9) for number in range(count)]))
        head.append(more, row)
        assert starts[4 * row : 4 * row + 4] + records[row][tails[row] :] + more == head.pack()
