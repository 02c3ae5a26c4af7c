"""The build of the kernels: without a compiler it says why there are none."""

from pathlib import Path

import pytest

from lifeline.scorer.kernels import library
from lifeline.scorer.kernels.build import SOURCES, build


def test_without_a_compiler_nothing_is_built_and_the_reason_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    told = build(tmp_path / "kernels.so")
    assert told is not None
    assert "apt-get install g++" in told
    monkeypatch.setenv("CXX", "false")
    told = build(tmp_path / "kernels.so")
    assert told is not None
    assert "failed" in told
    assert not list(tmp_path.iterdir())


def test_every_source_is_built() -> None:
    directory = Path(library.__file__).parent / "src"
    assert {path.name for path in directory.glob("*.cpp")} == set(SOURCES)
