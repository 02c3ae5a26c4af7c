"""Instruction sets of the processor, and the one that this process uses.

LIFELINE_KERNELS forces one. It is read once, at the first use: a node uses one for as long as it runs.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import IntEnum
from functools import cache

from lifeline.scorer.errors import KernelsError
from lifeline.scorer.kernels.library import load

VARIABLE = "LIFELINE_KERNELS"
"""The environment variable that forces an instruction set."""


class InstructionSet(IntEnum):
    """Each includes those before it; the numbers are those of the C ABI."""

    NONE = 0
    """No kernels: PyTorch does their work."""
    AVX2 = 1
    """With FMA."""
    AVX512 = 2
    """F, BW, DQ and VL."""
    AVX512_BF16 = 3
    """With VNNI: products of bfloat16 and int8."""

    @property
    def label(self) -> str:
        """What LIFELINE_KERNELS and `lifeline model` call it."""
        return _LABELS[self]


_LABELS = {
    InstructionSet.NONE: "torch",
    InstructionSet.AVX2: "avx2",
    InstructionSet.AVX512: "avx512",
    InstructionSet.AVX512_BF16: "bf16",
}


@cache
def best() -> InstructionSet:
    """Return the best that this processor has: NONE where the kernels were not built.

    Raises KernelsError where the library's ABI has another version.
    """
    library = load()
    return InstructionSet.NONE if library is None else InstructionSet(library.lifeline_instruction_set())


def requested(environment: Mapping[str, str]) -> InstructionSet:
    """Return what LIFELINE_KERNELS forces, or else the best; raises KernelsError where it is not available."""
    label = environment.get(VARIABLE, "").lower()
    if not label:
        return best()
    by_label = {name: instruction_set for instruction_set, name in _LABELS.items()}
    if label not in by_label:
        raise KernelsError(f"{VARIABLE} is {label!r}: set it to one of {', '.join(by_label)}, or not at all")
    if by_label[label] > best():
        why = "was not built with the kernels" if load() is None else "runs on a processor without them"
        raise KernelsError(
            f"{VARIABLE} is {label!r}, and this installation {why}: set it to {best().label}, or not at all"
        )
    return by_label[label]


class _Process:
    active: InstructionSet | None = None


def active() -> InstructionSet:
    """Return the instruction set that this process uses; raises KernelsError as `requested` does."""
    if _Process.active is None:
        _Process.active = requested(os.environ)
    return _Process.active


@contextmanager
def using(instruction_set: InstructionSet) -> Iterator[None]:
    """Use another instruction set in the whole process: for benchmarks and tests, not while requests are served."""
    before, _Process.active = _Process.active, instruction_set
    try:
        yield
    finally:
        _Process.active = before


def unavailable(instruction_set: InstructionSet) -> KernelsError:
    """Return the error of a call whose instruction set the processor lacks."""
    return KernelsError(f"this processor has no {instruction_set.label}: leave {VARIABLE} unset")
