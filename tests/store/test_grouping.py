import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lifeline.core.actions import MAX_TIMESTAMP_MS, Identity, Kind
from lifeline.store.fingerprint import user_hash
from lifeline.store.grouping import GroupedBatch
from lifeline.store.keys import sequence_prefix, user_of
from tests.support.factories import Event, batch_of

EVENTS = st.lists(
    st.builds(
        Event,
        user=st.sampled_from([b"ann", b"bob", "Ünal".encode(), b"a\x00", b"an"]),
        timestamp_ms=st.integers(-2, 2) | st.integers(-(1 << 63), MAX_TIMESTAMP_MS),
        item_id=st.integers(0, 2) | st.integers(0, (1 << 64) - 1),
        code=st.integers(0, 2) | st.integers(0, (1 << 16) - 1),
        kind=st.sampled_from(Kind),
        logged_ms=st.none(),
    ),
    min_size=1,
    max_size=40,
)


@given(EVENTS)
def test_sequences_stand_together_sorted_and_without_repeats(events: list[Event]) -> None:
    grouped = GroupedBatch.of(batch_of(events))
    found: dict[bytes, list[tuple[int, int, int]]] = {}
    at = 0
    for prefix, start, end in zip(grouped.prefixes, grouped.starts, grouped.ends, strict=True):
        assert (start, end > start) == (at, True)
        assert prefix not in found
        rows = slice(start, end)
        found[prefix] = list(
            zip(
                grouped.timestamp_ms[rows].tolist(),
                grouped.item_id[rows].tolist(),
                grouped.code[rows].tolist(),
                strict=True,
            )
        )
        assert set(grouped.kind[rows].tolist()) == {prefix[-1]}
        assert {row.tobytes() for row in grouped.users[rows]} == {user_hash(user_of(prefix))}
        assert (grouped.first_ms[len(found) - 1], grouped.last_ms[len(found) - 1]) == (
            found[prefix][0][0],
            found[prefix][-1][0],
        )
        at = end
    assert at == len(grouped.timestamp_ms)
    expected: dict[bytes, list[Identity]] = {}
    for event in sorted(set(events)):
        expected.setdefault(sequence_prefix(event.user, event.kind), []).append(event.identity)
    assert found == expected


def test_columns_keep_their_types() -> None:
    grouped = GroupedBatch.of(batch_of([Event(b"a", 1, 2, 3), Event(b"a", 1, 2, 3), Event(b"a", 0, 2, 3)]))
    assert [c.dtype for c in grouped[5:]] == [np.uint64, np.uint8, np.int64, np.uint64, np.uint16]
    assert grouped.timestamp_ms.tolist() == [0, 1]
