"""`lifeline bench` runs in a checkout only, and `python -m benchmarks` is the same command."""

import subprocess
import sys

import pytest
from typer.testing import CliRunner

import lifeline
from lifeline.cli import app


def test_a_foreign_package_called_benchmarks_is_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifeline, "__file__", "/site-packages/lifeline/__init__.py")
    result = CliRunner().invoke(app, ["bench", "slice"])
    assert result.exit_code == 1
    assert "run this, or `python -m benchmarks`, in a checkout of the project" in result.stderr


def test_without_the_benchmarks_it_says_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "benchmarks", None)
    result = CliRunner().invoke(app, ["bench"])
    assert result.exit_code == 1
    assert "not part of the installed package" in result.stderr


def test_the_package_runs_the_same_command() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "benchmarks", "nothing"], capture_output=True, text=True, check=False, timeout=60
    )
    assert ran.returncode == 2
    assert "there is no benchmark 'nothing': use one of slice, store" in ran.stderr
