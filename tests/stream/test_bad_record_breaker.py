from hypothesis import given
from hypothesis import strategies as st

from lifeline.stream.bad_record_breaker import BadRecordBreaker


def test_a_few_records_are_no_reason_to_stop_however_bad() -> None:
    breaker = BadRecordBreaker(100, 0.5)
    breaker.add(99, 99)
    assert not breaker.is_tripped
    breaker.add(1, 0)
    assert breaker.is_tripped


def test_the_limit_itself_is_not_above_it() -> None:
    breaker = BadRecordBreaker(10, 0.5)
    breaker.add(10, 5)
    assert not breaker.is_tripped
    breaker.add(10, 6)
    assert breaker.is_tripped


def test_good_batches_of_long_ago_do_not_hide_what_is_bad_now() -> None:
    breaker = BadRecordBreaker(100, 0.5)
    breaker.add(8_192, 0)
    for _ in range(99):
        breaker.add(1, 1)
        assert not breaker.is_tripped
    breaker.add(1, 1)
    assert breaker.is_tripped
    for _ in range(50):
        breaker.add(1, 0)
    assert not breaker.is_tripped


@given(
    st.integers(1, 50),
    st.floats(0.01, 1),
    st.lists(st.integers(1, 40).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))), max_size=60),
)
def test_it_counts_the_fewest_last_batches_that_hold_enough(
    records: int, most: float, batches: list[tuple[int, int]]
) -> None:
    breaker = BadRecordBreaker(records, most)
    for end, batch in enumerate(batches, start=1):
        breaker.add(*batch)
        last: list[tuple[int, int]] = []
        for counts in reversed(batches[:end]):
            if sum(seen for seen, _ in last) >= records:
                break
            last.append(counts)
        seen, bad = sum(seen for seen, _ in last), sum(bad for _, bad in last)
        assert (breaker.records, breaker.bad) == (seen, bad)
        assert breaker.is_tripped == (seen >= records and bad > most * seen)
