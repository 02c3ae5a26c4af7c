"""The native library: found, asked what the processor can do, and called. Calls release the interpreter's lock."""

import ctypes
import os
import weakref
from enum import IntEnum
from functools import cache
from pathlib import Path

from lifeline.scorer.errors import KernelsError

VARIABLE = "LIFELINE_KERNELS"
"""The environment variable that forces an implementation."""
PATH = Path(__file__).resolve().parent / "lifeline_kernels.so"
MEMORY_SHORT = 2
"""What a call returns that had too little memory."""
OUT_OF_RANGE = 3
"""What a call returns that was given an index of nothing."""


class Level(IntEnum):
    """Which implementation works, each with all that those before it have; the numbers of the C ABI."""

    TORCH = 0
    AVX2 = 1
    AVX512 = 2
    BF16 = 3
    """AVX-512 with VNNI and BF16."""
    INT8 = 4
    """The same, for an encoder whose products are of int8 where that was calibrated; nothing to force."""


@cache
def best_level() -> Level:
    """Return what this machine can do: TORCH where the library was not built."""
    library = _library()
    return Level.TORCH if library is None else Level(library.lifeline_level())


def chosen_level() -> Level:
    """Return what LIFELINE_KERNELS forces, or else the best; raises KernelsError where that cannot be had."""
    asked = os.environ.get(VARIABLE, "").upper()
    if not asked:
        return best_level()
    names = [level.name for level in Level if level is not Level.INT8]
    if asked not in names:
        raise KernelsError(
            f"{VARIABLE} is {asked.lower()!r}: set it to one of {', '.join(names).lower()}, or not at all"
        )
    level = Level[asked]
    if level > best_level():
        has = best_level().name.lower()
        why = "was not built with the kernels" if _library() is None else "runs on a processor without them"
        raise KernelsError(
            f"{VARIABLE} is {asked.lower()!r}, and this installation {why}: set it to {has}, or not at all"
        )
    return level


def loaded() -> ctypes.CDLL:
    """Return the library; raises KernelsError where it was not built."""
    library = _library()
    if library is None:
        raise KernelsError("the kernels were not built: install the package where there is a C++ compiler")
    return library


def lacking(level: Level) -> KernelsError:
    """Return what to raise where the processor lacks a level."""
    return KernelsError(f"this processor has no {level.name.lower()}: leave {VARIABLE} unset")


def prepare(owner: object, what: str, given: ctypes.Structure, level: Level) -> int:
    """Have "encoder" or "heads" prepared for a level; it is freed when its owner goes.

    Raises KernelsError where the level cannot be had.
    """
    library = loaded()
    made: int | None = getattr(library, f"lifeline_{what}_new")(ctypes.byref(given), int(level))
    if made is None:
        raise lacking(level)
    weakref.finalize(owner, getattr(library, f"lifeline_{what}_free"), made)
    return made


def memory_short() -> MemoryError:
    """Return what to raise where a call had too little memory."""
    return MemoryError("the kernels could not get the memory they need: score fewer candidates at once")


@cache
def _library() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL(str(PATH))
    except OSError:
        return None
    structure, number, long = ctypes.c_void_p, ctypes.c_int32, ctypes.c_int64
    for name, result, arguments in (
        ("lifeline_level", number, ()),
        ("lifeline_merge", number, (structure, long, structure, structure)),
        ("lifeline_engaged", number, (structure, structure, long, structure, structure)),
        ("lifeline_last_touch", number, (structure, long, structure, long, structure, structure)),
        ("lifeline_select", number, (structure, number, number)),
        ("lifeline_encoder_new", ctypes.c_void_p, (structure, number)),
        ("lifeline_encoder_free", None, (ctypes.c_void_p,)),
        ("lifeline_encode", number, (ctypes.c_void_p, structure, structure, number)),
        ("lifeline_heads_new", ctypes.c_void_p, (structure, number)),
        ("lifeline_heads_free", None, (ctypes.c_void_p,)),
        ("lifeline_logits", number, (ctypes.c_void_p, structure, long, structure, number)),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library
