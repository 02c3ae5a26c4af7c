import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lifeline.core.embedding_codec import inverse_norm, normalize, quantize


def test_the_formula_clips_symmetrically_and_never_gives_minus_128() -> None:
    step = 0.65 / 127
    given_values = np.array([0.0, 0.65, -0.65, 9.0, -9.0, step, -2 * step])
    assert quantize(given_values).tolist() == [0, 127, -127, 127, -127, 1, -2]


def test_halves_go_to_the_even_neighbour() -> None:
    # 0.325 is exactly 63.5 steps, and 0.65 * 0.5 steps are exact halves too.
    assert quantize(np.array([0.325, -0.325])).tolist() == [64, -64]
    halves = np.array([0.5, 1.5, 2.5]) / 127 * 0.65
    scaled = halves / 0.65 * 127
    assert quantize(halves).tolist() == np.rint(scaled).tolist()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="publish finite numbers"):
        quantize(np.array([0.1, bad]))


@given(st.floats(-0.65, 0.65))
def test_an_embedding_inside_the_range_moves_by_half_a_step_at_most(value: float) -> None:
    step = 0.65 / 127
    assert abs(int(quantize(np.array([value]))[0]) * step - value) <= step / 2 + 1e-12


def test_normalised_rows_have_length_one_and_zero_stays_zero() -> None:
    rng = np.random.default_rng(0)
    rows = rng.integers(-127, 128, (50, 32)).astype(np.int8)
    rows[7] = 0
    unit = normalize(rows)
    assert unit.dtype == np.float32
    lengths = np.linalg.norm(unit.astype(np.float64), axis=1)
    assert lengths[7] == 0
    np.testing.assert_allclose(np.delete(lengths, 7), 1, atol=1e-6)
    assert inverse_norm(rows)[7] == 0


def test_the_scale_cancels() -> None:
    row = np.arange(-16, 16, dtype=np.int8)[np.newaxis]
    np.testing.assert_allclose(normalize(row), normalize((row * 3).astype(np.int8)), atol=1e-7)


def test_no_rows_give_no_rows() -> None:
    assert normalize(np.empty((0, 32), np.int8)).shape == (0, 32)
