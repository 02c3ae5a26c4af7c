"""The encoder by the kernels: from a user's tokens to the greatest of each channel of the read-out."""

import ctypes
from collections.abc import Mapping
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from scorer.kernels.library import Level, loaded, memory_short, prepare

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

        Raises KernelsError where the level cannot be had.
        """
        names = (*WEIGHTS, *CALIBRATION) if level is Level.INT8 else WEIGHTS
        arrays = {name: np.ascontiguousarray(weights[name], np.float32) for name in names}
        layers, _, ffn = arrays["widen"].shape
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

        `candidates` are int8[c, 32], and `asked_ms` is when the request is made. Raises MemoryError.
        """
        columns = [np.ascontiguousarray(column) for column in tokens]
        given = _Tokens(*(column.ctypes.data for column in columns), len(columns[0]), asked_ms)
        read = [
            np.ascontiguousarray(candidates),
            *map(np.ascontiguousarray, (picked.index, picked.similarity, picked.valid)),
        ]
        count, length = picked.index.shape
        read_out = np.empty((count, WIDTH), np.float32)
        whole = np.zeros((count, length, WIDTH), np.float32) if outputs else None
        job = _Encoding(
            *(array.ctypes.data for array in read),
            count,
            length,
            read_out.ctypes.data,
            whole.ctypes.data if whole is not None else None,
        )
        if loaded().lifeline_encode(self._made, ctypes.byref(given), ctypes.byref(job), threads):
            raise memory_short()
        return read_out, whole
