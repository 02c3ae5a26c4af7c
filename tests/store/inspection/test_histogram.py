"""Bins hold every value, and follow each other."""

from itertools import pairwise

import pytest

from lifeline.store.inspection.histogram import Bin, Histogram


@pytest.mark.parametrize("histogram", [Histogram.doublings(), Histogram.quarters()], ids=["doublings", "quarters"])
def test_bins_follow_each_other_and_hold_every_value(histogram: Histogram) -> None:
    for value in range(1, 5_000):
        histogram.add(value)
    bins = histogram.bins
    assert bins[0].low == 1
    assert all(left.high + 1 == right.low for left, right in pairwise(bins))
    assert all(each.values == each.high - each.low + 1 for each in bins[:-1])
    assert sum(each.values for each in bins) == 4_999


def test_only_bins_from_the_lowest_to_the_highest_value_are_there() -> None:
    few = Histogram.doublings()
    assert not few.bins
    for value in (4, 5, 40):
        few.add(value)
    assert few.bins == (Bin(4, 7, 2), Bin(8, 15, 0), Bin(16, 31, 0), Bin(32, 63, 1))
