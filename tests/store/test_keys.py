from hypothesis import example, given
from hypothesis import strategies as st

from store import keys
from store.actions import Identity, Kind
from store.fingerprint import user_hash

EDGES = [0, 1, 255, 256, (1 << 31), (1 << 32) - 1, (1 << 63) - 1]
TIMESTAMPS = st.sampled_from([*EDGES, *(-edge for edge in EDGES), -(1 << 63)]) | st.integers(-(1 << 63), (1 << 63) - 1)
ITEMS = st.sampled_from([*EDGES, 1 << 63, (1 << 64) - 1]) | st.integers(0, (1 << 64) - 1)
IDENTITIES = st.builds(Identity, TIMESTAMPS, ITEMS, st.integers(0, (1 << 16) - 1))
PREFIX = keys.sequence_prefix(user_hash(b"ann"), Kind.EXPLICIT)


@given(IDENTITIES, IDENTITIES)
@example(Identity(-1, 0, 0), Identity(0, 0, 0))
@example(Identity(0, (1 << 63) - 1, 0), Identity(0, 1 << 63, 0))
@example(Identity(5, 1, 255), Identity(5, 1, 256))
def test_the_order_of_chunk_keys_is_the_order_of_identities(left: Identity, right: Identity) -> None:
    one, other = keys.chunk_key(PREFIX, left), keys.chunk_key(PREFIX, right)
    assert (one < other) == (left < right)
    assert (one == other) == (left == right)
    assert keys.chunk_fence(one) == left


@given(st.integers(0, (1 << 32) - 1), st.integers(0, (1 << 32) - 1))
def test_numbers_keep_their_order(left: int, right: int) -> None:
    assert (keys.segment_key(PREFIX, left) < keys.segment_key(PREFIX, right)) == (left < right)
    assert (keys.items_key(left) < keys.items_key(right)) == (left < right)
    assert keys.items_first(keys.items_key(left)) == left


@given(st.binary(max_size=20), st.binary(max_size=24))
@example(b"\xff" * 17, b"\xff" * 18)
@example(b"a\xff", b"\xff\xff")
@example(b"", b"a")
def test_after_is_above_everything_with_the_prefix(prefix: bytes, suffix: bytes) -> None:
    assert keys.after(prefix) > prefix + suffix


@given(st.binary(min_size=1, max_size=17), st.binary(min_size=1, max_size=30))
def test_after_is_above_nothing_else(prefix: bytes, key: bytes) -> None:
    if key > prefix and not key.startswith(prefix):
        assert keys.after(prefix) <= key


def test_a_head_stands_before_its_segments_and_nothing_between() -> None:
    order = [
        keys.head_key(PREFIX),
        keys.segment_key(PREFIX, 0),
        keys.segment_key(PREFIX, (1 << 32) - 1),
        keys.after(PREFIX),
        keys.head_key(keys.sequence_prefix(user_hash(b"ann"), Kind.IMPRESSION)),
    ]
    assert order == sorted(order)
    assert all(key.startswith(PREFIX) for key in order[:3])


def test_a_user_s_keys_all_start_with_the_user() -> None:
    user = user_hash(b"ann")
    for kind in Kind:
        prefix = keys.sequence_prefix(user, kind)
        for key in (keys.head_key(prefix), keys.segment_key(prefix, 7), keys.chunk_key(prefix, Identity(1, 2, 3))):
            assert user <= key < keys.after(user)


def test_the_state_is_not_among_the_items() -> None:
    assert not keys.STATE_KEY.startswith(keys.ITEMS_PREFIX)
    assert len(keys.chunk_key(PREFIX, Identity(0, 0, 0))) == 17 + 18
