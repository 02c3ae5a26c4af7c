from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from lifeline.stream.fingerprint_log import Fingerprint, FingerprintLog, Mismatch, first_difference


class State(NamedTuple):
    applied_offset: int
    fingerprint: int


def apply(log: FingerprintLog, offsets: list[int], limit: int, start: int = 0) -> None:
    """Batches as a node would make them; a state's fingerprint is a function of its offset."""
    at = start
    state = State(offsets[at - 1] if at else -1, offsets[at - 1] * 7 if at else 0)
    while at < len(offsets):
        end = log.end_of_batch(offsets[at])
        batch = [offset for offset in offsets[at : at + limit] if offset < end]
        log.before_batch(3, state, batch[0])
        state = State(batch[-1], batch[-1] * 7)
        at += len(batch)


@given(
    st.lists(st.integers(0, 500), unique=True, min_size=1, max_size=60).map(sorted),
    st.integers(1, 50),
    st.tuples(st.integers(1, 30), st.integers(1, 30)),
    st.data(),
)
def test_two_nodes_have_fingerprints_at_the_same_offsets_however_they_batch(
    offsets: list[int], every: int, limits: tuple[int, int], data: st.DataObject
) -> None:
    ours, theirs = FingerprintLog(every), FingerprintLog(every)
    apply(ours, offsets, limits[0])
    start = data.draw(st.integers(0, len(offsets) - 1))
    apply(theirs, offsets, limits[1], start)
    first = offsets[start - 1] if start else -1
    assert theirs.of(3) == [one for one in ours.of(3) if one.offset > first]
    assert first_difference(ours.of(3), theirs.of(3)) is None
    for one in ours.of(3):
        below = [offset for offset in offsets if offset < one.offset]
        assert one.offset % every == 0
        assert one.fingerprint == (below[-1] * 7 if below else 0)


def test_the_first_offset_that_differs_is_named() -> None:
    ours = [Fingerprint(10, 1), Fingerprint(20, 2), Fingerprint(30, 3)]
    theirs = [Fingerprint(15, 9), Fingerprint(20, 5), Fingerprint(30, 6)]
    assert first_difference(ours, theirs) == Mismatch(20, 2, 5)
    assert first_difference(ours, ours[1:]) is None


def test_the_state_of_now_counts_and_an_empty_store_has_nothing_to_say() -> None:
    log = FingerprintLog(10)
    assert log.of(0) == log.of(0, State(-1, 0)) == []
    assert log.of(0, State(4, 77)) == [Fingerprint(5, 77)]


def test_old_ones_go_and_a_partition_is_forgotten() -> None:
    log = FingerprintLog(1)
    apply(log, list(range(400)), 1)
    kept = log.of(3)
    assert len(kept) == 256
    assert kept[-1].offset == 399
    log.forget(3)
    assert log.of(3) == []
