from hypothesis import example, given
from hypothesis import strategies as st

from lifeline.core.actions import Identity, Kind
from lifeline.store import keys
from tests.support.factories import HOUR_MS, LAST_HOUR

EDGES = [0, 1, 255, 256, (1 << 31), (1 << 32) - 1, (1 << 63) - 1]
TIMESTAMPS = st.sampled_from([*EDGES, *(-edge for edge in EDGES), -(1 << 63)]) | st.integers(-(1 << 63), (1 << 63) - 1)
ITEMS = st.sampled_from([*EDGES, 1 << 63, (1 << 64) - 1]) | st.integers(0, (1 << 64) - 1)
IDENTITIES = st.builds(Identity, TIMESTAMPS, ITEMS, st.integers(0, (1 << 16) - 1))
USERS = st.text(min_size=1, max_size=9).map(str.encode)
KINDS = st.sampled_from(Kind)
PREFIX = keys.sequence_prefix(b"ann", Kind.EXPLICIT)


def keys_of(user: bytes, kind: Kind, identity: Identity, number: int) -> list[bytes]:
    """Return one key of each sort that rows and chunks have."""
    prefix = keys.sequence_prefix(user, kind)
    return [prefix, keys.segment_key(prefix, number), keys.chunk_key(prefix, identity)]


@given(IDENTITIES, IDENTITIES)
@example(Identity(-1, 0, 0), Identity(0, 0, 0))
@example(Identity(0, (1 << 63) - 1, 0), Identity(0, 1 << 63, 0))
@example(Identity(5, 1, 255), Identity(5, 1, 256))
def test_the_order_of_chunk_keys_is_the_order_of_identities(left: Identity, right: Identity) -> None:
    key, other = keys.chunk_key(PREFIX, left), keys.chunk_key(PREFIX, right)
    assert (key < other) == (left < right)
    assert (key == other) == (left == right)
    assert keys.chunk_fence(key) == left
    assert keys.chunk_prefix(key) == PREFIX


@given(st.integers(0, (1 << 32) - 1), st.integers(0, (1 << 32) - 1))
def test_numbers_keep_their_order(left: int, right: int) -> None:
    assert (keys.items_key(left) < keys.items_key(right)) == (left < right)
    assert keys.items_first(keys.items_key(left)) == left
    key, other = keys.segment_key(PREFIX, left % 256), keys.segment_key(PREFIX, right % 256)
    assert (key < other) == (left % 256 < right % 256)


@given(st.binary(max_size=20), st.binary(max_size=24))
@example(b"\xff" * 17, b"\xff" * 18)
@example(b"a\xff", b"\xff\xff")
@example(b"", b"a")
def test_after_is_above_everything_with_the_prefix(prefix: bytes, suffix: bytes) -> None:
    assert keys.prefix_end(prefix) > prefix + suffix


@given(st.binary(min_size=1, max_size=17), st.binary(min_size=1, max_size=30))
def test_after_is_above_nothing_else(prefix: bytes, key: bytes) -> None:
    if key > prefix and not key.startswith(prefix):
        assert keys.prefix_end(prefix) <= key


def test_a_head_stands_before_its_segments_and_nothing_between() -> None:
    order = [
        PREFIX,
        keys.segment_key(PREFIX, 0),
        keys.segment_key(PREFIX, 255),
        keys.prefix_end(PREFIX),
        keys.sequence_prefix(b"ann", Kind.IMPRESSION),
    ]
    assert order == sorted(order)
    assert all(key.startswith(PREFIX) for key in order[:3])


@given(USERS, USERS, KINDS, KINDS, IDENTITIES, st.integers(0, 255))
@example(b"a", b"ab", Kind.EXPLICIT, Kind.EXPLICIT, Identity(0, 0, 0), 0)
@example(b"a", b"a\x00", Kind.IMPRESSION, Kind.EXPLICIT, Identity(0, 0, 0), 0)
@example("\U0010ffff".encode(), "\U0010ffff\U0010ffff".encode(), Kind.EXPLICIT, Kind.EXPLICIT, Identity(-1, 1, 1), 255)
def test_the_range_of_a_user_holds_that_user_s_keys_and_no_other_s(
    user: bytes, other: bytes, kind: Kind, other_kind: Kind, identity: Identity, number: int
) -> None:
    start = keys.user_prefix(user)
    for key in keys_of(user, kind, identity, number):
        assert start <= key < keys.prefix_end(start)
        assert keys.sequence_prefix(user, kind) == key[: len(user) + 2]
    if user != other:
        for key in keys_of(other, other_kind, identity, number):
            assert not start <= key < keys.prefix_end(start)


@given(USERS, KINDS, IDENTITIES, st.integers(0, 255))
@example(b"u", Kind.IMPRESSION, Identity(0, 0, 0), 255)
def test_a_head_s_key_says_whose_it_is(user: bytes, kind: Kind, identity: Identity, number: int) -> None:
    head, segment, _ = keys_of(user, kind, identity, number)
    assert keys.is_head(head)
    assert not keys.is_head(segment)
    assert (keys.user_of(head), keys.kind_of(head)) == (user, kind)


@given(USERS, KINDS, st.integers(0, LAST_HOUR), st.integers(0, LAST_HOUR))
@example(b"u", Kind.EXPLICIT, 0, 1)
@example(b"u", Kind.IMPRESSION, 255, 256)
def test_what_is_due_is_what_lies_before_an_hour(user: bytes, kind: Kind, hour: int, now: int) -> None:
    prefix = keys.sequence_prefix(user, kind)
    key = keys.expiry_key(prefix, hour)
    assert keys.expiry_prefix(key) == prefix
    for asked in Kind:
        start, end = keys.expiry_due(asked, now)
        assert (start <= key < end) == (asked is kind and hour < now)


@given(TIMESTAMPS)
@example(HOUR_MS - 1)
@example(HOUR_MS)
def test_hours_are_within_what_a_key_holds(timestamp_ms: int) -> None:
    hour = keys.hour_of(timestamp_ms)
    assert 0 <= hour <= LAST_HOUR
    if 0 <= timestamp_ms < LAST_HOUR * HOUR_MS:
        assert hour * HOUR_MS <= timestamp_ms < (hour + 1) * HOUR_MS


@given(USERS, st.integers(0, (1 << 63) - 1))
def test_an_erasure_is_of_a_user_and_an_offset(user: bytes, offset: int) -> None:
    key = keys.erasure_key(user, offset)
    assert keys.erased_user(key) == user
    assert key.startswith(keys.ERASURE_PREFIX)
    assert key != keys.erasure_key(user, offset + 1)


def test_the_records_of_meta_are_told_apart_by_their_first_byte() -> None:
    first = [
        keys.POLICY_KEY,
        keys.STATE_KEY,
        keys.items_key(7)[:1],
        keys.expiry_key(PREFIX, 7)[:1],
        keys.erasure_key(b"ann", 7)[:1],
    ]
    assert first == [b"C", b"S", b"I", b"X", b"E"]


def test_the_layout_is_the_one_on_paper() -> None:
    assert PREFIX == b"ann\xff\x00"
    assert keys.segment_key(PREFIX, 7) == b"ann\xff\x00\x07"
    fence = b"\x80" + bytes(6) + b"\x01" + bytes(7) + b"\x02" + b"\x00\x03"
    assert keys.chunk_key(PREFIX, Identity(1, 2, 3)) == PREFIX + fence
    assert keys.items_key(258) == b"I\x00\x00\x01\x02"
    assert keys.expiry_key(keys.sequence_prefix(b"ann", 1), 258) == b"X\x01\x00\x00\x01\x02ann"
    assert keys.erasure_key(b"ann", 258) == b"Eann\xff" + bytes(6) + b"\x01\x02"
