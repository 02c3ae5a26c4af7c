"""Instruction sets of the processor, and the one that this process uses.

LIFELINE_KERNELS forces one. It is read once, at the first use, and holds for the life of the process.
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
    """Each one includes the previous ones; the numbers are those of the C ABI."""

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
        """Its name in LIFELINE_KERNELS and `lifeline model`."""
        return _LABELS[self]


_LABELS = {
    InstructionSet.NONE: "torch",
    InstructionSet.AVX2: "avx2",
    InstructionSet.AVX512: "avx512",
    InstructionSet.AVX512_BF16: "bf16",
}


@cache
def best() -> InstructionSet:
    """Return the best instruction set of this processor; NONE if the kernels were not built.

    Raises KernelsError if the ABI of the library has another version.
    """
    library = load()
    return InstructionSet.NONE if library is None else InstructionSet(library.lifeline_instruction_set())


def from_environment(environment: Mapping[str, str]) -> InstructionSet:
    """Return the value of LIFELINE_KERNELS, by default the best; raises KernelsError if it is not available."""
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
    """Return the instruction set that this process uses; raises KernelsError as `from_environment` does."""
    if _Process.active is None:
        _Process.active = from_environment(os.environ)
    return _Process.active


@contextmanager
def override(instruction_set: InstructionSet) -> Iterator[None]:
    """Use another instruction set in the whole process: only for benchmarks and tests."""
    previous, _Process.active = _Process.active, instruction_set
    try:
        yield
    finally:
        _Process.active = previous


def unavailable_error(instruction_set: InstructionSet) -> KernelsError:
    """Return the error of a call whose instruction set the processor lacks."""
    return KernelsError(f"this processor has no {instruction_set.label}: leave {VARIABLE} unset")
