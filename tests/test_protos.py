"""The wire contract: what lies in lifeline/v1 is what protos/ gives, and protos/ passes its linter."""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from lifeline.v1 import action_pb2

ROOT = Path(__file__).resolve().parent.parent
GENERATED = ROOT / "lifeline" / "v1"


def _tool(name: str) -> str:
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    assert found, f"{name} is not installed"
    return found


@pytest.fixture
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "protos" / "generate.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_generated_code_is_not_stale(generator: ModuleType, tmp_path: Path) -> None:
    generator.generate(tmp_path)
    fresh = {path.name: path.read_bytes() for path in (tmp_path / "lifeline" / "v1").iterdir()}
    here = {path.name: path.read_bytes() for path in GENERATED.glob("*_pb2*") if path.suffix in {".py", ".pyi"}}
    assert sorted(here) == sorted(fresh)
    assert [name for name in fresh if here[name] != fresh[name]] == [], "run `make proto`"


def test_the_protos_pass_their_linter() -> None:
    done = subprocess.run([_tool("buf"), "lint", str(ROOT / "protos")], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_action_is_the_first_message_of_its_file() -> None:
    # Schema-registry framing counts on it: the message index of an action is 0.
    assert next(iter(action_pb2.DESCRIPTOR.message_types_by_name)) == "Action"
