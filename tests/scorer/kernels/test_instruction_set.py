"""Instruction sets: LIFELINE_KERNELS forces one, and is read once."""

import pytest

from lifeline.scorer.errors import KernelsError
from lifeline.scorer.kernels import instruction_set
from lifeline.scorer.kernels.instruction_set import VARIABLE, InstructionSet, active, best, from_environment, override


def test_an_instruction_set_can_be_forced() -> None:
    assert from_environment({}) is best()
    assert from_environment({VARIABLE: ""}) is best()
    for label in ("torch", "TORCH"):
        assert from_environment({VARIABLE: label}) is InstructionSet.NONE
    assert from_environment({VARIABLE: best().label}) is best()
    with pytest.raises(KernelsError, match="'neon': set it to one of torch, avx2, avx512, bf16, or not at all"):
        from_environment({VARIABLE: "neon"})


def test_what_is_not_available_is_not_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instruction_set, "best", lambda: InstructionSet.NONE)
    with pytest.raises(KernelsError, match=r"'bf16', and this installation .*: set it to torch, or not at all"):
        from_environment({VARIABLE: "bf16"})


def test_the_environment_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instruction_set._Process, "active", None)
    monkeypatch.setenv(VARIABLE, "torch")
    assert active() is InstructionSet.NONE
    monkeypatch.setenv(VARIABLE, "neon")
    assert active() is InstructionSet.NONE


def test_another_instruction_set_is_used_for_a_while() -> None:
    before = active()
    with override(InstructionSet.NONE):
        assert active() is InstructionSet.NONE
    assert active() is before
