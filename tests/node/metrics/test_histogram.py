import pytest
from hypothesis import given
from hypothesis import strategies as st

from lifeline.node.metrics.histogram import ColumnHistogram

BOUNDS = (0.5, 1.0, 10.0)


@given(st.lists(st.lists(st.one_of(st.floats(0, 100), st.sampled_from(BOUNDS)), max_size=20), max_size=5))
def test_each_value_is_in_every_bucket_whose_bound_it_does_not_pass(columns: list[list[float]]) -> None:
    histogram = ColumnHistogram(BOUNDS)
    for column in columns:
        histogram.observe(column)
    values = [value for column in columns for value in column]
    buckets, total = histogram.buckets()
    assert buckets == [
        *((str(bound), sum(value <= bound for value in values)) for bound in BOUNDS),
        ("+Inf", len(values)),
    ]
    assert total == pytest.approx(sum(values))
