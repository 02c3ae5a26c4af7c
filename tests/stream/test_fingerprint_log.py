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
    node, peer = FingerprintLog(every), FingerprintLog(every)
    apply(node, offsets, limits[0])
    start = data.draw(st.integers(0, len(offsets) - 1))
    apply(peer, offsets, limits[1], start)
    first = offsets[start - 1] if start else -1
    assert peer.of(3) == [entry for entry in node.of(3) if entry.offset > first]
    assert first_difference(node.of(3), peer.of(3)) is None
    for entry in node.of(3):
        below = [offset for offset in offsets if offset < entry.offset]
        assert entry.offset % every == 0
        assert entry.fingerprint == (below[-1] * 7 if below else 0)


def test_the_first_offset_that_differs_is_named() -> None:
    node = [Fingerprint(10, 1), Fingerprint(20, 2), Fingerprint(30, 3)]
    peer = [Fingerprint(15, 9), Fingerprint(20, 5), Fingerprint(30, 6)]
    assert first_difference(node, peer) == Mismatch(20, 2, 5)
    assert first_difference(node, node[1:]) is None


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
