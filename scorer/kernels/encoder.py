"""The encoder by the kernels: from a user's tokens to the greatest of each channel of the read-out."""

import ctypes
from collections.abc import Mapping
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from lifeline.scorer.errors import KernelInputError
from lifeline.scorer.kernels.arrays import check_range, checked, checked_numbers
from lifeline.scorer.kernels.library import OUT_OF_RANGE, Level, loaded, memory_short, prepare

WEIGHTS = (
    "action",
    "surface",
    "position",
    "similarity",
    "age",
    "match",
    "value",
    "widen",
    "narrow",
    "read_out",
    "read_out_bias",
)
"""The arrays of `lifeline_weights`, whose shapes src/kernels.h gives."""
CALIBRATION = ("inputs", "middles", "values", "wides")
"""Those that an encoder of int8 has beside them."""
WIDTH = 64
_COLUMNS = 32
_MOST = 1 << 16


class TokenColumns(NamedTuple):
    """n tokens."""

    embedding: NDArray[np.int8]
    """int8[n, 32]."""
    action_types: NDArray[np.uint64]
    """uint64[n]: bit id - 1 for each action type."""
    surface: NDArray[np.uint8]
    """uint8[n]."""
    timestamp_ms: NDArray[np.int64]
    """int64[n]."""


class Picked(Protocol):
    """S_all of c candidates, each selected to length L: `scorer.selection.Selection`."""

    @property
    def index(self) -> NDArray[np.int64]:
        """int64[c, L]: rows of the tokens, -1 for the neutral token and padding."""

    @property
    def similarity(self) -> NDArray[np.float32]:
        """float32[c, L]."""

    @property
    def valid(self) -> NDArray[np.bool_]:
        """bool[c, L]: a prefix of each row."""


class _Tokens(ctypes.Structure):
    """`lifeline_tokens` of src/kernels.h."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("rows", "types", "surfaces", "ms")),
        *((name, ctypes.c_int64) for name in ("count", "asked_ms")),
    )


class _Weights(ctypes.Structure):
    """`lifeline_weights`."""

    _fields_ = (
        *((name, ctypes.c_int32) for name in ("layers", "ffn", "length", "similarity_knots", "age_knots")),
        *((name, ctypes.c_float) for name in ("input_scale", "age_span")),
        *((name, ctypes.c_void_p) for name in (*WEIGHTS, *CALIBRATION)),
    )


class _Encoding(ctypes.Structure):
    """`lifeline_encoding`."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("candidates", "index", "similarity", "valid")),
        ("candidate_count", ctypes.c_int64),
        ("length", ctypes.c_int32),
        *((name, ctypes.c_void_p) for name in ("read_out", "outputs")),
    )


class Encoder:
    """An encoder's weights in the form that a level reads; `encode` may be called from any thread."""

    def __init__(
        self, weights: Mapping[str, NDArray[np.float32]], *, input_scale: float, age_span: float, level: Level
    ) -> None:
        """Prepare float32 arrays by the names of WEIGHTS, and of int8 also of CALIBRATION.

        Raises KernelsError where the level cannot be had, and KernelInputError where an array is missing, has another
        shape than src/kernels.h gives, holds a number that is not finite, or a scale that is not above 0.
        """
        names = (*WEIGHTS, *CALIBRATION) if level is Level.INT8 else WEIGHTS
        if missing := [name for name in names if name not in weights]:
            raise KernelInputError(f"{missing[0]} is missing: give each of {', '.join(names)}")
        layers, _, ffn = checked_numbers("widen", weights["widen"], None, WIDTH, None).shape
        check_range("layers", layers, 1, _MOST)
        check_range("ffn", ffn, _COLUMNS, _MOST)
        check_range("the rest of ffn", ffn % _COLUMNS, 0, 0)
        check_range("input_scale", input_scale, 1e-9, 1e9)
        check_range("age_span", age_span, 1e-9, 1e9)
        shapes = _shapes(layers, ffn)
        arrays = {
            name: checked_numbers(name, weights[name], *shapes[name], positive=name in CALIBRATION) for name in names
        }
        self._length = len(arrays["position"])
        check_range("positions", self._length, 1, _MOST)
        for name in ("similarity", "age"):
            # Between two knots is interpolated.
            if len(arrays[name]) == 1:
                raise KernelInputError(f"{name} has one knot: give none, or two and more")
        given = _Weights(
            layers,
            ffn,
            *(len(arrays[name]) for name in ("position", "similarity", "age")),
            input_scale,
            age_span,
            *(array.ctypes.data for array in arrays.values()),
        )
        self._made = prepare(self, "encoder", given, level)

    def encode(
        self,
        tokens: TokenColumns,
        asked_ms: int,
        candidates: NDArray[np.int8],
        picked: Picked,
        *,
        outputs: bool = False,
        threads: int = 1,
    ) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """Return float32[c, 64] read-outs, and the last layer's float32[c, L, 64] where `outputs` asks for them.

        `candidates` are int8[c, 32], and `asked_ms` is when the request is made. Raises MemoryError, and
        KernelInputError also where an index is of no token, or a candidate's first place is not valid.
        """
        many = len(tokens.timestamp_ms)
        columns = (
            checked("embedding", tokens.embedding, np.int8, many, WIDTH // 2),
            checked("action_types", tokens.action_types, np.uint64, many),
            checked("surface", tokens.surface, np.uint8, many),
            checked("timestamp_ms", tokens.timestamp_ms, np.int64, many),
        )
        given = _Tokens(*(column.ctypes.data for column in columns), many, asked_ms)
        index = checked("index", picked.index, np.int64, len(candidates), None)
        count, length = index.shape
        check_range("the length of the selection", length, 1, self._length)
        read = (
            checked("candidates", candidates, np.int8, None, WIDTH // 2),
            index,
            checked("similarity", picked.similarity, np.float32, count, length),
            checked("valid", picked.valid, np.bool_, count, length),
        )
        read_out = np.empty((count, WIDTH), np.float32)
        whole = np.zeros((count, length, WIDTH), np.float32) if outputs else None
        job = _Encoding(
            *(array.ctypes.data for array in read),
            count,
            length,
            read_out.ctypes.data,
            whole.ctypes.data if whole is not None else None,
        )
        status = loaded().lifeline_encode(self._made, ctypes.byref(given), ctypes.byref(job), threads)
        if status == OUT_OF_RANGE:
            raise KernelInputError(
                f"a selection points at a token that is none of {many}, or has no valid place: make it of these tokens"
            )
        if status:
            raise memory_short()
        return read_out, whole


def _shapes(layers: int, ffn: int) -> dict[str, tuple[int | None, ...]]:
    """Return the shapes of WEIGHTS and CALIBRATION."""
    return {
        "action": (64, WIDTH),
        "surface": (256, WIDTH),
        "position": (None, WIDTH),
        "similarity": (None, WIDTH),
        "age": (None, WIDTH),
        "match": (layers, WIDTH, WIDTH),
        "value": (layers, WIDTH, WIDTH),
        "widen": (layers, WIDTH, ffn),
        "narrow": (layers, ffn, WIDTH),
        "read_out": (WIDTH, WIDTH),
        "read_out_bias": (WIDTH,),
        "inputs": (layers,),
        "middles": (layers,),
        "values": (layers, WIDTH),
        "wides": (layers, ffn),
    }
