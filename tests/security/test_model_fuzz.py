"""Whoever can write a version of a model makes a node refuse it, and neither crash nor read what is not the model's."""

import json
from pathlib import Path

import pytest

from lifeline.scorer.kernels.instruction_set import InstructionSet, override
from tests.support.fuzzed_models import fuzz
from tests.support.sanitizers import Sanitised

_SCRIPT = """
import sys
from pathlib import Path
from lifeline.scorer.kernels import library
library.PATH = Path(sys.argv[1])
from tests.support.fuzzed_models import fuzz
print(fuzz(Path(sys.argv[2]), seed=int(sys.argv[3]), seconds=float(sys.argv[4]), least=40))
"""


LONG_S = 600


def assert_both(found: str) -> None:
    outcomes = json.loads(found)
    assert outcomes["refused"] > 15
    assert outcomes["answered"] > 3


def test_damaged_models_are_refused_or_answer_under_the_address_sanitizer(
    sanitised: Sanitised, tmp_path: Path, first_seed: int, is_long: bool
) -> None:
    seconds = LONG_S if is_long else 2
    assert_both(sanitised.run(_SCRIPT, str(tmp_path), str(first_seed), str(seconds)))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_damaged_models_are_refused_or_answer_by_pytorch(tmp_path: Path) -> None:
    with override(InstructionSet.NONE):
        assert_both(fuzz(tmp_path, seed=1, seconds=1, least=40))
