"""Layers: evaluation knows training, and training knows nothing of evaluation."""

import ast
from pathlib import Path

import pytest

from lifeline.scorer import train

MODULES = sorted(Path(train.__file__).parent.glob("*.py"))


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.stem)
def test_training_imports_nothing_of_evaluation(module: Path) -> None:
    imported = [
        node.module or "" for node in ast.walk(ast.parse(module.read_text())) if isinstance(node, ast.ImportFrom)
    ]
    assert not [name for name in imported if name.startswith("lifeline.scorer.evaluate")]
