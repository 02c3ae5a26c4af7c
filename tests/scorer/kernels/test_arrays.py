"""The gate to the kernels: what is not as they read it never reaches them."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from lifeline.scorer.errors import KernelInputError
from lifeline.scorer.kernels import heads, selection, tokens
from lifeline.scorer.kernels.arrays import check_array, check_weights
from lifeline.scorer.kernels.encoder import CALIBRATION, WEIGHTS, Encoder, TokenColumns
from lifeline.scorer.kernels.instruction_set import InstructionSet, best
from lifeline.scorer.precision import Precision
from lifeline.scorer.selection import Selection

pytestmark = pytest.mark.skipif(best() is InstructionSet.NONE, reason="not built")

SHAPES: dict[str, tuple[int, ...]] = {
    "action": (64, 64),
    "surface": (256, 64),
    "position": (9, 64),
    "similarity": (3, 64),
    "age": (2, 64),
    "match": (2, 64, 64),
    "value": (2, 64, 64),
    "widen": (2, 64, 32),
    "narrow": (2, 32, 64),
    "read_out": (64, 64),
    "read_out_bias": (64,),
    "inputs": (2,),
    "middles": (2,),
    "values": (2, 64),
    "wides": (2, 32),
}
INT8 = pytest.param(
    Precision.INT8,
    marks=pytest.mark.skipif(best() < InstructionSet.AVX512_BF16, reason="the processor lacks it"),
    id="int8",
)


def weights() -> dict[str, NDArray[Any]]:
    return {name: np.full(shape, 0.1, np.float32) for name, shape in SHAPES.items()}


def encoder(
    arrays: dict[str, Any],
    precision: Precision = Precision.FLOAT32,
    *,
    input_scale: float = 1.0,
    age_span: float = 21.0,
) -> Encoder:
    return Encoder(arrays, input_scale=input_scale, age_span=age_span, instruction_set=best(), precision=precision)


def test_an_array_passes_as_the_kernels_read_it() -> None:
    rows = np.arange(24, dtype=np.int64).reshape(4, 6)
    assert check_array("rows", rows, np.int64, None, 6) is rows
    for other in (rows[:, ::2], np.frombuffer(b"x" + rows.tobytes(), np.int64, offset=1, count=24).reshape(4, 6)):
        found = check_array("rows", other, np.int64, 4, None)
        assert np.array_equal(found, other)
        assert found.flags.c_contiguous
        assert found.flags.aligned


@pytest.mark.parametrize(
    "array",
    [np.zeros((4, 5), np.int64), np.zeros(24, np.int64), np.zeros((4, 6), np.int32), np.zeros((4, 6), ">i8")],
    ids=["shape", "dimensions", "dtype", "byte order"],
)
def test_another_array_does_not(array: NDArray[Any]) -> None:
    with pytest.raises(KernelInputError, match=r"rows is .*, and the kernels read int64\[n, 6\]: give that"):
        check_array("rows", array, np.int64, None, 6)


def test_numbers_of_a_model_are_finite_and_scales_above_zero() -> None:
    for value in (np.nan, np.inf, -np.inf):
        with pytest.raises(KernelInputError, match="w holds numbers that are not finite"):
            check_weights("w", np.array([1, value], np.float32), 2)
    for value in (0, -1):
        assert len(check_weights("w", np.array([1, value], np.float32), 2)) == 2
        with pytest.raises(KernelInputError, match="w holds a scale that is not above 0"):
            check_weights("w", np.array([1, value], np.float32), 2, positive=True)


@pytest.mark.parametrize("precision", [Precision.FLOAT32, INT8])
def test_every_array_of_an_encoder_is_looked_at(precision: Precision) -> None:
    encoder(weights(), precision)
    names = (*WEIGHTS, *CALIBRATION) if precision is Precision.INT8 else WEIGHTS
    for name in names:
        whole = weights()[name]
        wrong = [
            whole.astype(np.float64),
            whole[..., np.newaxis],
            np.concatenate([whole, whole], axis=-1),
            whole[..., :-1],
            np.where(np.arange(whole.size).reshape(whole.shape) == 1, np.float32(np.nan), whole),
        ]
        if name not in ("position", "similarity", "age"):
            wrong += [np.concatenate([whole, whole]), whole[:-1]]
        if name in CALIBRATION:
            wrong += [whole * 0, -whole]
        for array in wrong:
            with pytest.raises(KernelInputError):
                encoder(weights() | {name: array}, precision)
        with pytest.raises(KernelInputError, match=f"{name} is missing"):
            encoder({other: array for other, array in weights().items() if other != name}, precision)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"position": 0}, "positions is 0"),
        ({"similarity": 1}, "similarity has one knot"),
        ({"age": 1}, "age has one knot"),
    ],
)
def test_lengths_that_the_kernels_cannot_read_are_refused(change: dict[str, int], message: str) -> None:
    with pytest.raises(KernelInputError, match=message):
        encoder(weights() | {name: weights()[name][:rows] for name, rows in change.items()})


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf])
def test_scales_of_an_encoder_are_numbers_above_zero(value: float) -> None:
    with pytest.raises(KernelInputError, match="input_scale"):
        encoder(weights(), input_scale=value)
    with pytest.raises(KernelInputError, match="age_span"):
        encoder(weights(), age_span=value)


def columns(count: int) -> TokenColumns:
    return TokenColumns(
        np.ones((count, 32), np.int8), np.ones(count, np.uint64), np.ones(count, np.uint8), np.arange(count)
    )


def picked(candidates: int, length: int) -> Selection:
    shape = (candidates, length)
    return Selection(
        np.zeros(shape, np.int64), np.ones(shape, np.bool_), np.ones(shape, np.uint8), np.zeros(shape, np.float32)
    )


def test_every_array_of_a_request_is_looked_at() -> None:
    made, rows, given = encoder(weights()), np.ones((3, 32), np.int8), picked(3, 9)
    read_out, _ = made.encode(columns(5), 10, rows, given)
    assert np.isfinite(read_out).all()
    for name, column in columns(5)._asdict().items():
        for wrong in (column[:-1], column.astype(np.float32)):
            if name == "timestamp_ms" and len(wrong) == 4:
                # The others are too long then.
                continue
            with pytest.raises(KernelInputError, match=name):
                made.encode(columns(5)._replace(**{name: wrong}), 10, rows, given)
    for name in ("index", "similarity", "valid"):
        array = getattr(given, name)
        for wrong in (array[:-1], array[:, :-1], array.astype(np.float64), array.ravel()):
            if name == "index" and wrong.shape == (3, 8):
                continue
            with pytest.raises(KernelInputError):
                made.encode(columns(5), 10, rows, replace(given, **{name: wrong}))
    candidates: list[NDArray[Any]] = [rows[:, :-1], rows[:-1], rows.astype(np.uint8)]
    for wrong in candidates:
        with pytest.raises(KernelInputError):
            made.encode(columns(5), 10, wrong, given)
    for length in (0, 10):
        with pytest.raises(KernelInputError, match="length of the selection"):
            made.encode(columns(5), 10, rows, picked(3, length))


@pytest.mark.parametrize("index", [5, 6, 1 << 40, (1 << 63) - 1])
def test_an_index_of_no_token_is_refused(index: int) -> None:
    made, rows = encoder(weights()), np.ones((3, 32), np.int8)
    given = picked(3, 9)
    given.index[2, 8] = index
    with pytest.raises(KernelInputError, match="outside the 5 tokens"):
        made.encode(columns(5), 10, rows, given)
    given = picked(3, 9)
    given.valid[1, 0] = False
    with pytest.raises(KernelInputError, match="no valid place"):
        made.encode(columns(5), 10, rows, given)


def test_layers_fit_each_other() -> None:
    def layer(before: int, after: int, value: float = 0.1) -> heads.Linear:
        return heads.Linear(np.full((before, after), value, np.float32), np.full(after, 0.1, np.float32))

    def made(*layers: heads.Linear) -> heads.Heads:
        return heads.Heads(layers[:1], layers[1:], InstructionSet.AVX2)

    good = (layer(7, 7), layer(7, 5), layer(5, 2))
    assert made(*good).logits(np.ones((3, 7), np.float32)).shape == (3, 2)
    for wrong in (
        (layer(7, 6), *good[1:]),
        (layer(6, 6), *good[1:]),
        (*good[:2], layer(4, 2)),
        (*good[:2], layer(6, 2)),
        (*good[:2], layer(5, 2, np.nan)),
        (*good[:2], good[2]._replace(bias=np.zeros(3, np.float32))),
        (*good[:2], good[2]._replace(matrix=good[2].matrix.astype(np.float64))),
    ):
        with pytest.raises(KernelInputError):
            made(*wrong)
    others: list[NDArray[Any]] = [np.ones((3, 6), np.float32), np.ones((3, 7)), np.ones(7, np.float32)]
    for inputs in others:
        with pytest.raises(KernelInputError, match="inputs"):
            made(*good).logits(inputs)


def test_a_selection_stays_within_its_tokens() -> None:
    rows = np.ones((10, 32), np.int8)

    def made(
        explicit: NDArray[Any] = rows, candidates: NDArray[Any] = rows[:2], start: int = 4, counts: Any = (2, 3, 1, 1)
    ) -> selection.SelectionArrays:
        return selection.select(
            explicit, rows[:3], candidates, start, counts, instruction_set=InstructionSet.AVX2, threads=1
        )

    assert made().valid.shape == (2, 7)
    calls: list[Callable[[], object]] = [
        lambda: made(explicit=rows[:, :31]),
        lambda: made(explicit=rows.astype(np.uint8)),
        lambda: made(candidates=rows.ravel()),
        lambda: made(start=-1),
        # Of the explicit tokens the newest three are kept: S_LL ends before them.
        lambda: made(start=8),
        lambda: made(start=11),
        lambda: made(counts=(-1, 3, 1, 1)),
        lambda: made(counts=(0, 0, 0, 0)),
        lambda: made(counts=(1 << 30, 3, 1, 1)),
    ]
    for call in calls:
        with pytest.raises(KernelInputError):
            call()


def test_columns_of_events_are_equally_long() -> None:
    events = tokens.EventColumns(np.arange(4), np.arange(4, dtype=np.uint64), np.ones(4, np.uint8))
    for name, column in events._asdict().items():
        for wrong in (column[:-1], column.astype(np.float32)):
            other = events._replace(**{name: wrong})
            with pytest.raises(KernelInputError):
                tokens.merge(other, 1)
            for sides in ((events, other), (other, events)):
                with pytest.raises(KernelInputError):
                    tokens.engaged(*sides, 1)
    signed: Any = events.timestamp_ms
    for items in ((events.item_id, signed), (signed, events.item_id)):
        with pytest.raises(KernelInputError, match="uint64"):
            tokens.last_touch(*items)
