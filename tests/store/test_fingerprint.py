import mmh3
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lifeline.core.actions import Kind
from lifeline.store import fingerprint as fp
from tests.support.factories import Event, event_hash

EVENTS = st.lists(
    st.builds(
        Event,
        user=st.text(min_size=1, max_size=40).map(str.encode),
        timestamp_ms=st.integers(-(1 << 63), (1 << 63) - 1),
        item_id=st.integers(0, (1 << 64) - 1),
        code=st.integers(0, (1 << 16) - 1),
        kind=st.sampled_from(Kind),
        logged_ms=st.none(),
    ),
    max_size=12,
)
MODULUS = 1 << 128


def hashes_of(events: list[Event]) -> tuple[fp.U64, fp.U64]:
    users = [np.frombuffer(fp.user_hash(event.user), np.uint64) for event in events]
    return fp.event_hashes(
        np.array(users, np.uint64).reshape(-1, 2),
        np.array([event.timestamp_ms for event in events], np.int64),
        np.array([event.item_id for event in events], np.uint64),
        np.array([event.kind for event in events], np.uint8),
        np.array([event.code for event in events], np.uint16),
    )


def test_a_user_is_16_bytes_of_xxh3() -> None:
    # From xxhsum -H128.
    assert fp.user_hash(b"").hex() == "99aa06d3014798d86001c324468d497f"
    assert len(fp.user_hash(b"")) == 16


def test_the_reference_of_these_tests_reads_h1_as_the_low_half() -> None:
    h1, h2 = mmh3.mmh3_x64_128_utupledigest(b"0123456789abcdef" * 3)
    assert mmh3.hash128(b"0123456789abcdef" * 3, 0, x64arch=True) == h1 | h2 << 64
    assert int.from_bytes(mmh3.mmh3_x64_128_digest(b"0123456789abcdef" * 3), "little") == h1 | h2 << 64


@given(EVENTS)
@example([Event(b"u", -1, (1 << 64) - 1, 0xFFFF, Kind.IMPRESSION)])
@settings(max_examples=300)
def test_every_event_hashes_as_murmur3_x64_128(events: list[Event]) -> None:
    h1, h2 = hashes_of(events)
    found = [low | high << 64 for low, high in zip(h1.tolist(), h2.tolist(), strict=True)]
    assert found == [event_hash(event) for event in events]
    assert fp.total(h1, h2) == sum(found) % MODULUS


@given(EVENTS, EVENTS)
def test_totals_add_up_and_subtract(left: list[Event], right: list[Event]) -> None:
    total, other, both = (fp.total(*hashes_of(events)) for events in (left, right, left + right))
    assert fp.add(total, other) == both == fp.add(other, total)
    assert fp.add(both, -other) == total
    assert fp.total(*hashes_of([*right, *left][::-1])) == both
    assert fp.total(*hashes_of([])) == 0


@given(st.lists(st.tuples(st.integers(0, (1 << 64) - 1), st.integers(0, (1 << 64) - 1)), max_size=50))
def test_sums_carry_from_word_to_word_and_wrap_at_128_bits(words: list[tuple[int, int]]) -> None:
    h1, h2 = (np.array([pair[half] for pair in words], np.uint64) for half in (0, 1))
    assert fp.total(h1, h2) == sum(low | high << 64 for low, high in words) % MODULUS


@pytest.mark.parametrize("n", [1, 2, 3, 1 << 16])
def test_the_largest_words_lose_no_carry(n: int) -> None:
    ones = np.full(n, (1 << 64) - 1, np.uint64)
    none = np.zeros(n, np.uint64)
    assert fp.total(ones, none) == n * ((1 << 64) - 1)
    assert fp.total(none, ones) == (n * ((1 << 64) - 1) << 64) % MODULUS
    assert fp.total(ones, ones) == (MODULUS - n) % MODULUS


def test_what_is_hashed_is_not_changed() -> None:
    event = Event(b"ann", 1, 2, 3)
    timestamp, item = np.array([1], np.int64), np.array([2], np.uint64)
    users = np.frombuffer(fp.user_hash(b"ann"), np.uint64).reshape(1, 2)
    first = fp.total(*fp.event_hashes(users, timestamp, item, np.array([0], np.uint8), np.array([3], np.uint16)))
    again = fp.total(*fp.event_hashes(users, timestamp, item, np.array([0], np.uint8), np.array([3], np.uint16)))
    assert first == again == event_hash(event)
    assert (timestamp[0], item[0]) == (1, 2)


def test_every_part_of_an_event_counts() -> None:
    base = Event(b"ann", 5, 6, 7, Kind.EXPLICIT)
    others = [
        base._replace(user=b"bob"),
        base._replace(timestamp_ms=6),
        base._replace(item_id=5),
        base._replace(code=7 << 8),
        base._replace(kind=Kind.IMPRESSION),
    ]
    assert len({fp.total(*hashes_of([event])) for event in [base, *others]}) == 6


def test_people_compare_32_digits() -> None:
    assert fp.as_text(0) == "0" * 32
    assert fp.as_text(MODULUS - 1) == "f" * 32
    assert int(fp.as_text(0xABC << 100), 16) == 0xABC << 100
    assert fp.add(MODULUS - 1, 2) == 1
    assert fp.add(1, -2) == MODULUS - 1
