"""The C ABI: both sides declare the same structures, and the versions are compared when the library is loaded."""

import ctypes
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from lifeline.scorer.errors import KernelsError
from lifeline.scorer.kernels import abi, library
from lifeline.scorer.kernels.build import HERE
from lifeline.scorer.kernels.instruction_set import InstructionSet

HEADER = (HERE / "src" / "kernels.h").read_text()
TYPES = {"int32_t": "c_int", "int64_t": "c_long", "uint64_t": "c_ulong", "float": "c_float"}


def fields_of(body: str) -> Iterator[tuple[str, str]]:
    """Yield the names and ctypes of a C structure's fields."""
    for line in body.splitlines():
        if (found := re.match(r"\s*([^/;]+?)(\*(?:const \*)?)?(\w+);", line)) is not None:
            kind, pointer, name = found.groups()
            yield name, "c_void_p" if pointer else TYPES[kind.strip()]


def test_both_sides_declare_the_same_structures() -> None:
    structures = dict(re.findall(r"^struct lifeline_(\w+) \{\n(.*?)^\};", HEADER, re.MULTILINE | re.DOTALL))
    assert structures.keys() == {structure.__name__.lower() for structure in abi.STRUCTURES}
    for structure in abi.STRUCTURES:
        ours = [(field[0], field[1].__name__) for field in structure._fields_]
        assert ours == list(fields_of(structures[structure.__name__.lower()])), structure


def test_both_sides_declare_the_same_numbers() -> None:
    numbers = {name: int(number) for name, number in re.findall(r"LIFELINE_(\w+) = (\d+)[,;]", HEADER)}
    expected = {member.name: int(member) for member in InstructionSet}
    expected |= {precision.name: number for precision, number in abi.PRECISIONS.items()}
    expected |= {"ABI_VERSION": abi.ABI_VERSION, "OK": 0, "UNAVAILABLE": 1}
    expected |= {"OUT_OF_MEMORY": abi.OUT_OF_MEMORY, "OUT_OF_RANGE": abi.OUT_OF_RANGE}
    assert numbers == expected


@pytest.fixture
def uncached() -> Iterator[None]:
    library.load.cache_clear()
    yield
    library.load.cache_clear()


@pytest.mark.usefixtures("uncached")
@pytest.mark.skipif(not library.PATH.exists(), reason="not built")
def test_a_library_of_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "ABI_VERSION", abi.ABI_VERSION + 1)
    with pytest.raises(KernelsError, match=rf"has version {abi.ABI_VERSION} of .*: build it again .*build\.py"):
        library.load()


@pytest.mark.usefixtures("uncached")
def test_a_library_without_a_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda _: object())
    with pytest.raises(KernelsError, match="has version 0 of the kernels' ABI"):
        library.load()


@pytest.mark.usefixtures("uncached")
def test_without_a_library_there_are_no_kernels(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(library, "PATH", tmp_path / "kernels.so")
    assert library.load() is None
    with pytest.raises(KernelsError, match="were not built"):
        library.require_library()


def test_sizes_are_those_of_c() -> None:
    assert ctypes.sizeof(ctypes.c_int) == 4
    assert ctypes.sizeof(ctypes.c_long) == 8
