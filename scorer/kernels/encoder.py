"""The encoder by the kernels: from a user's tokens to the read-out, max-pooled over the tokens."""

import ctypes
from collections.abc import Mapping
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from lifeline.scorer.errors import KernelInputError
from lifeline.scorer.kernels import abi
from lifeline.scorer.kernels.arrays import check_range, checked, checked_numbers
from lifeline.scorer.kernels.instruction_set import InstructionSet, unavailable
from lifeline.scorer.kernels.library import loaded, out_of_memory, own
from lifeline.scorer.precision import Precision

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
"""The arrays of `lifeline_weights`; src/kernels.h has their shapes."""
CALIBRATION = ("inputs", "middles", "values", "wides")
"""Further arrays of an int8 encoder."""
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


class SelectedTokens(Protocol):
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


class Encoder:
    """An encoder's weights, packed for an instruction set and a precision; `encode` may be called from any thread."""

    def __init__(
        self,
        weights: Mapping[str, NDArray[np.float32]],
        *,
        input_scale: float,
        age_span: float,
        instruction_set: InstructionSet,
        precision: Precision,
    ) -> None:
        """Pack float32 arrays by the names of WEIGHTS, and for int8 also of CALIBRATION.

        Raises KernelsError where the processor lacks the instruction set, or that has no products of the precision;
        and KernelInputError where an array is missing, has another shape than src/kernels.h gives, holds a number that
        is not finite, or a scale that is not above 0.
        """
        names = (*WEIGHTS, *CALIBRATION) if precision is Precision.INT8 else WEIGHTS
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
            # The embedding is interpolated between two knots.
            if len(arrays[name]) == 1:
                raise KernelInputError(f"{name} has one knot: give none, or two and more")
        packed = abi.Weights(
            layers,
            ffn,
            *(len(arrays[name]) for name in ("position", "similarity", "age")),
            input_scale,
            age_span,
            *(array.ctypes.data for array in arrays.values()),
        )
        handle: int | None = loaded().lifeline_encoder_new(
            ctypes.byref(packed), int(instruction_set), abi.PRECISIONS[precision]
        )
        if handle is None:
            raise unavailable(instruction_set)
        self._handle = own(self, handle, "lifeline_encoder_free")

    def encode(
        self,
        tokens: TokenColumns,
        asked_ms: int,
        candidates: NDArray[np.int8],
        selected: SelectedTokens,
        *,
        outputs: bool = False,
        threads: int = 1,
    ) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """Return float32[c, 64] read-outs, and with `outputs` the last layer's float32[c, L, 64].

        `candidates` are int8[c, 32], and `asked_ms` is the request's time. Raises MemoryError, and KernelInputError
        also where an index is not that of a token, or a candidate's first place is not valid.
        """
        token_count = len(tokens.timestamp_ms)
        columns = (
            checked("embedding", tokens.embedding, np.int8, token_count, WIDTH // 2),
            checked("action_types", tokens.action_types, np.uint64, token_count),
            checked("surface", tokens.surface, np.uint8, token_count),
            checked("timestamp_ms", tokens.timestamp_ms, np.int64, token_count),
        )
        rows = abi.Tokens(*(column.ctypes.data for column in columns), token_count, asked_ms)
        index = checked("index", selected.index, np.int64, len(candidates), None)
        count, length = index.shape
        check_range("the length of the selection", length, 1, self._length)
        inputs = (
            checked("candidates", candidates, np.int8, None, WIDTH // 2),
            index,
            checked("similarity", selected.similarity, np.float32, count, length),
            checked("valid", selected.valid, np.bool_, count, length),
        )
        read_out = np.empty((count, WIDTH), np.float32)
        layer_outputs = np.zeros((count, length, WIDTH), np.float32) if outputs else None
        job = abi.Encoding(
            *(array.ctypes.data for array in inputs),
            count,
            length,
            read_out.ctypes.data,
            layer_outputs.ctypes.data if layer_outputs is not None else None,
        )
        status = loaded().lifeline_encode(self._handle, ctypes.byref(rows), ctypes.byref(job), threads)
        if status == abi.OUT_OF_RANGE:
            raise KernelInputError(
                f"a selection has an index outside the {token_count} tokens, or no valid place: select from these"
            )
        if status:
            raise out_of_memory()
        return read_out, layer_outputs


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
