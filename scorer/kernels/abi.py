"""The C ABI of the kernels: the Python side of src/kernels.h, which documents each structure and function.

A change on either side needs the same change on the other and the next ABI_VERSION.
"""

import ctypes

from lifeline.scorer.precision import Precision

ABI_VERSION = 1
"""Must equal that of the library: `lifeline_abi_version`."""

OUT_OF_MEMORY = 2
"""Status of a call that could not allocate memory."""
OUT_OF_RANGE = 3
"""Status of a call with an index outside its array."""

PRECISIONS = {Precision.FLOAT32: 0, Precision.BFLOAT16: 1, Precision.INT8: 2}
"""The numbers of `lifeline_precision`."""

_POINTER, _INT32, _INT64, _UINT64, _FLOAT = (
    ctypes.c_void_p,
    ctypes.c_int32,
    ctypes.c_int64,
    ctypes.c_uint64,
    ctypes.c_float,
)


class Seed(ctypes.Structure):
    """`lifeline_seed`."""

    _fields_ = (("mask", _UINT64), ("first", _UINT64), ("second", _UINT64))


class Events(ctypes.Structure):
    """`lifeline_events`."""

    _fields_ = (("ms", _POINTER), ("items", _POINTER), ("types", _POINTER), ("count", _INT64))


class Merged(ctypes.Structure):
    """`lifeline_merged`."""

    _fields_ = (("newest", _POINTER), ("types", _POINTER), ("count", _INT64), ("probes", _INT64))


class Selection(ctypes.Structure):
    """`lifeline_selection`."""

    _fields_ = (
        ("explicit_rows", _POINTER),
        ("impression_rows", _POINTER),
        ("candidates", _POINTER),
        ("explicit_count", _INT64),
        ("impression_count", _INT64),
        ("candidate_count", _INT64),
        ("real_time_from", _INT64),
        ("lifelong_selected", _INT32),
        ("recent_kept", _INT32),
        ("real_time_selected", _INT32),
        ("impressions_selected", _INT32),
        ("index", _POINTER),
        ("similarity", _POINTER),
        ("source", _POINTER),
        ("valid", _POINTER),
    )


class Tokens(ctypes.Structure):
    """`lifeline_tokens`."""

    _fields_ = (
        ("rows", _POINTER),
        ("types", _POINTER),
        ("surfaces", _POINTER),
        ("ms", _POINTER),
        ("count", _INT64),
        ("request_ms", _INT64),
    )


class Weights(ctypes.Structure):
    """`lifeline_weights`."""

    _fields_ = (
        ("layers", _INT32),
        ("ffn", _INT32),
        ("length", _INT32),
        ("similarity_knots", _INT32),
        ("age_knots", _INT32),
        ("input_scale", _FLOAT),
        ("age_span", _FLOAT),
        ("action", _POINTER),
        ("surface", _POINTER),
        ("position", _POINTER),
        ("similarity", _POINTER),
        ("age", _POINTER),
        ("match", _POINTER),
        ("value", _POINTER),
        ("widen", _POINTER),
        ("narrow", _POINTER),
        ("read_out", _POINTER),
        ("read_out_bias", _POINTER),
        ("inputs", _POINTER),
        ("middles", _POINTER),
        ("values", _POINTER),
        ("wides", _POINTER),
    )


class Encoding(ctypes.Structure):
    """`lifeline_encoding`."""

    _fields_ = (
        ("candidates", _POINTER),
        ("index", _POINTER),
        ("similarity", _POINTER),
        ("valid", _POINTER),
        ("candidate_count", _INT64),
        ("length", _INT32),
        ("read_out", _POINTER),
        ("outputs", _POINTER),
    )


class Heads(ctypes.Structure):
    """`lifeline_heads`."""

    _fields_ = (
        ("width", _INT32),
        ("cross_layers", _INT32),
        ("mlp_layers", _INT32),
        ("sizes", _POINTER),
        ("matrices", _POINTER),
        ("biases", _POINTER),
    )


STRUCTURES = (Seed, Events, Merged, Selection, Tokens, Weights, Encoding, Heads)

_FUNCTIONS = (
    ("lifeline_instruction_set", _INT32, ()),
    ("lifeline_merge", _INT32, (_POINTER, _INT64, _POINTER, _POINTER)),
    ("lifeline_engaged", _INT32, (_POINTER, _POINTER, _INT64, _POINTER, _POINTER)),
    ("lifeline_last_touch", _INT32, (_POINTER, _INT64, _POINTER, _INT64, _POINTER, _POINTER)),
    ("lifeline_select", _INT32, (_POINTER, _INT32, _INT32)),
    ("lifeline_encoder_new", _POINTER, (_POINTER, _INT32, _INT32)),
    ("lifeline_encoder_free", None, (_POINTER,)),
    ("lifeline_encode", _INT32, (_POINTER, _POINTER, _POINTER, _INT32)),
    ("lifeline_heads_new", _POINTER, (_POINTER, _INT32)),
    ("lifeline_heads_free", None, (_POINTER,)),
    ("lifeline_logits", _INT32, (_POINTER, _POINTER, _INT64, _POINTER, _INT32)),
)


def version_of(library: ctypes.CDLL) -> int:
    """Return a library's version of the ABI; 0 where it was built before there were versions."""
    try:
        version = library.lifeline_abi_version
    except AttributeError:
        return 0
    version.restype, version.argtypes = _INT32, ()
    return int(version())


def declare(library: ctypes.CDLL) -> None:
    """Set the argument and result types of every function."""
    for name, result, arguments in _FUNCTIONS:
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
