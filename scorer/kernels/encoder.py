"""The encoder of the CPU kernels: from a user's tokens to the read-out, max-pooled over the tokens."""

import ctypes
from collections.abc import Mapping
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from lifeline.scorer.errors import KernelInputError
from lifeline.scorer.kernels import abi
from lifeline.scorer.kernels.arrays import check_array, check_range, check_weights
from lifeline.scorer.kernels.instruction_set import InstructionSet, unavailable_error
from lifeline.scorer.kernels.library import free_with_owner, memory_error, require_library
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
"""The names of the arrays of `lifeline_weights`; src/kernels.h has their shapes."""
CALIBRATION = ("inputs", "middles", "values", "wides")
"""The additional arrays of an int8 encoder."""
WIDTH = 64
_COLUMN_STEP = 32
_MAX_SIZE = 1 << 16


class TokenColumns(NamedTuple):
    """Columns of n tokens."""

    embedding: NDArray[np.int8]
    """int8[n, 32]."""
    action_types: NDArray[np.uint64]
    """uint64[n]: bit id - 1 for each action type."""
    surface: NDArray[np.uint8]
    """uint8[n]."""
    timestamp_ms: NDArray[np.int64]
    """int64[n]."""


class SelectedTokens(Protocol):
    """S_all of c candidates, each of length L: `scorer.selection.Selection` has these fields."""

    @property
    def index(self) -> NDArray[np.int64]:
        """int64[c, L]: rows of the tokens; -1 for the neutral token and for padding."""

    @property
    def similarity(self) -> NDArray[np.float32]:
        """float32[c, L]."""

    @property
    def valid(self) -> NDArray[np.bool_]:
        """bool[c, L]: True for a prefix of each row, False for padding."""


class Encoder:
    """An encoder's weights, packed for an instruction set and a precision; safe to use from any thread."""

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

        Raises KernelsError if the processor lacks the instruction set, or if that does not support the precision; and
        KernelInputError if an array is missing, does not have the shape in src/kernels.h, or holds a number that is not
        finite or a scale that is not above 0.
        """
        names = (*WEIGHTS, *CALIBRATION) if precision is Precision.INT8 else WEIGHTS
        if missing := [name for name in names if name not in weights]:
            raise KernelInputError(f"{missing[0]} is missing: pass each of {', '.join(names)}")
        layers, _, ffn = check_weights("widen", weights["widen"], None, WIDTH, None).shape
        check_range("layers", layers, 1, _MAX_SIZE)
        check_range("ffn", ffn, _COLUMN_STEP, _MAX_SIZE)
        check_range("the rest of ffn", ffn % _COLUMN_STEP, 0, 0)
        check_range("input_scale", input_scale, 1e-9, 1e9)
        check_range("age_span", age_span, 1e-9, 1e9)
        shapes = _shapes(layers, ffn)
        arrays = {
            name: check_weights(name, weights[name], *shapes[name], positive=name in CALIBRATION) for name in names
        }
        self._length = len(arrays["position"])
        check_range("positions", self._length, 1, _MAX_SIZE)
        for name in ("similarity", "age"):
            # The embedding interpolates between two knots.
            if len(arrays[name]) == 1:
                raise KernelInputError(f"{name} has one knot: pass none, or at least two")
        packed = abi.Weights(
            layers,
            ffn,
            *(len(arrays[name]) for name in ("position", "similarity", "age")),
            input_scale,
            age_span,
            *(array.ctypes.data for array in arrays.values()),
        )
        handle: int | None = require_library().lifeline_encoder_new(
            ctypes.byref(packed), int(instruction_set), abi.PRECISIONS[precision]
        )
        if handle is None:
            raise unavailable_error(instruction_set)
        self._handle = free_with_owner(self, handle, "lifeline_encoder_free")

    def encode(
        self,
        tokens: TokenColumns,
        request_ms: int,
        candidates: NDArray[np.int8],
        selection: SelectedTokens,
        *,
        outputs: bool = False,
        threads: int = 1,
    ) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """Return float32[c, 64] read-outs, and with `outputs` the last layer's float32[c, L, 64].

        `candidates` are int8[c, 32], and `request_ms` is the time of the request. Raises MemoryError, and
        KernelInputError also if an index is outside the tokens, or position 0 of a candidate is not valid.
        """
        token_count = len(tokens.timestamp_ms)
        columns = (
            check_array("embedding", tokens.embedding, np.int8, token_count, WIDTH // 2),
            check_array("action_types", tokens.action_types, np.uint64, token_count),
            check_array("surface", tokens.surface, np.uint8, token_count),
            check_array("timestamp_ms", tokens.timestamp_ms, np.int64, token_count),
        )
        rows = abi.Tokens(*(column.ctypes.data for column in columns), token_count, request_ms)
        index = check_array("index", selection.index, np.int64, len(candidates), None)
        count, length = index.shape
        check_range("the length of the selection", length, 1, self._length)
        inputs = (
            check_array("candidates", candidates, np.int8, None, WIDTH // 2),
            index,
            check_array("similarity", selection.similarity, np.float32, count, length),
            check_array("valid", selection.valid, np.bool_, count, length),
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
        status = require_library().lifeline_encode(self._handle, ctypes.byref(rows), ctypes.byref(job), threads)
        if status == abi.OUT_OF_RANGE:
            raise KernelInputError(
                f"a selection has an index outside the {token_count} tokens, or no valid place: select from these"
            )
        if status:
            raise memory_error()
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
