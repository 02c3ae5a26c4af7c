import pytest

from lifeline.core.time_units import DAY_MS, mistaken_unit

_FIRST, _LAST = 1_600_000_000_000, 1_760_000_000_000


@pytest.mark.parametrize(
    ("value", "unit"),
    [
        (_FIRST, None),
        (_LAST, None),
        (_FIRST - DAY_MS, None),
        (_LAST + DAY_MS, None),
        (0, None),
        (-1_700_000_000, None),
        (1_700_000_000, "seconds"),
        (_FIRST // 1_000, "seconds"),
        (_FIRST // 1_000 - 1, None),
        (1_700_000, "thousands of seconds"),
        (1_700_000_000_000_000, "microseconds"),
        (1_700_000_000_000_000_000, "nanoseconds"),
    ],
)
def test_the_unit_in_which_a_number_fits(value: int, unit: str | None) -> None:
    assert mistaken_unit(value, _FIRST, _LAST) == unit
