import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lifeline.core.embedding_codec import inverse_norm, normalize, quantize


def test_the_formula_brings_a_row_to_length_one() -> None:
    step = 0.65 / 127
    unit = np.array([0.6, -0.6, 10 * step, -20 * step, 0.0])
    unit[4] = np.sqrt(1 - np.square(unit).sum())
    assert quantize(unit).tolist() == [117, -117, 10, -20, round(unit[4] / step)]
    assert quantize(unit / 1_000).tolist() == quantize(unit * 1_000).tolist() == quantize(unit).tolist()


def test_no_value_is_clipped() -> None:
    rows = np.array([[9.0, -9.0, 0.0], [1.0, 0.0, 0.0], [3.0, 4.0, 0.0], [1e-320, -1e-320, 0.0]])
    assert quantize(rows).tolist() == [[127, -127, 0], [127, 0, 0], [95, 127, 0], [127, -127, 0]]


def test_halves_go_to_the_even_neighbour() -> None:
    assert quantize(np.array([127.0, 0.5, 1.5, -2.5])).tolist() == [127, 0, 2, -2]


@pytest.mark.parametrize("length", [5e-324, 1e-300, 0.001, 1.0, 10.0, 100.0, 1e300])
@given(seed=st.integers(0, 2**32 - 1), concentration=st.floats(0, 3))
def test_the_direction_is_kept_at_every_length(length: float, seed: int, concentration: float) -> None:
    rng = np.random.default_rng(seed)
    unit = rng.normal(size=32) * np.exp(concentration * rng.normal(size=32))
    unit /= np.linalg.norm(unit)
    embedding = unit * max(length, 1e-290)
    quantized = quantize(embedding).astype(np.float64)
    assert np.abs(quantized).max() <= 127
    assert quantized @ unit / np.linalg.norm(quantized) > 0.999


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="publish finite numbers"):
        quantize(np.array([0.1, bad]))


def test_zeros_are_refused() -> None:
    with pytest.raises(ValueError, match="all zeros"):
        quantize(np.array([[0.1, 0.2], [0.0, -0.0]]))


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
