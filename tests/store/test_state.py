import pytest
from hypothesis import given
from hypothesis import strategies as st

from lifeline.store.errors import CorruptRecordError, FormatVersionError
from lifeline.store.state import State

I64 = st.integers(-(1 << 63), (1 << 63) - 1)


@given(st.builds(State, I64, I64, st.integers(0, (1 << 64) - 1), st.integers(0, (1 << 128) - 1)))
def test_round_trip(state: State) -> None:
    assert State.unpack(state.pack()) == state


def test_the_layout_is_the_one_on_paper() -> None:
    data = State(1, -1, 2, 3 << 120).pack()
    assert data == bytes([3, 1, *[0] * 7, *[255] * 8, 2, *[0] * 7, *[0] * 15, 3])


def test_nothing_has_been_applied_at_first() -> None:
    assert State() == (-1, 0, 0, 0)


def test_truncations_are_corrupt() -> None:
    data = State(5, 6, 7, 8).pack()
    for size in range(len(data)):
        with pytest.raises(CorruptRecordError):
            State.unpack(data[:size])
    with pytest.raises(CorruptRecordError):
        State.unpack(data + b"\0")


@pytest.mark.parametrize("version", [2, 4])
@pytest.mark.parametrize("size", [1, 41, 60])
def test_another_format_is_refused_whatever_its_size(size: int, version: int) -> None:
    with pytest.raises(FormatVersionError, match=f"format {version}"):
        State.unpack(bytes([version]) * size)
