from hypothesis import given
from hypothesis import strategies as st

from lifeline.stream.record import records_from
from tests.support.records import FakeRecord


@given(st.lists(st.integers(0, 60), unique=True).map(sorted), st.integers(0, 70))
def test_records_from_keeps_what_lies_at_or_above(offsets: list[int], offset: int) -> None:
    records = [FakeRecord(offset=each) for each in offsets]
    assert [record.offset for record in records_from(records, offset)] == [each for each in offsets if each >= offset]
