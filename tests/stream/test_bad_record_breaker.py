from hypothesis import given
from hypothesis import strategies as st

from lifeline.stream.bad_record_breaker import BadShare


def test_a_few_records_are_no_reason_to_stop_however_bad() -> None:
    share = BadShare(100, 0.5)
    share.add(99, 99)
    assert not share.is_exceeded
    share.add(1, 0)
    assert share.is_exceeded


def test_the_limit_itself_is_not_above_it() -> None:
    share = BadShare(10, 0.5)
    share.add(10, 5)
    assert not share.is_exceeded
    share.add(10, 6)
    assert share.is_exceeded


def test_good_batches_of_long_ago_do_not_hide_what_is_bad_now() -> None:
    share = BadShare(100, 0.5)
    share.add(8_192, 0)
    for _ in range(99):
        share.add(1, 1)
        assert not share.is_exceeded
    share.add(1, 1)
    assert share.is_exceeded
    for _ in range(50):
        share.add(1, 0)
    assert not share.is_exceeded


@given(
    st.integers(1, 50),
    st.floats(0.01, 1),
    st.lists(st.integers(1, 40).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))), max_size=60),
)
def test_it_counts_the_fewest_last_batches_that_hold_enough(
    records: int, most: float, batches: list[tuple[int, int]]
) -> None:
    share = BadShare(records, most)
    for end, batch in enumerate(batches, start=1):
        share.add(*batch)
        last: list[tuple[int, int]] = []
        for one in reversed(batches[:end]):
            if sum(seen for seen, _ in last) >= records:
                break
            last.append(one)
        seen, bad = sum(one[0] for one in last), sum(one[1] for one in last)
        assert (share.seen, share.bad) == (seen, bad)
        assert share.is_exceeded == (seen >= records and bad > most * seen)
