"""What `make setup` and the image install is compared with the hashes of the lock, but for another build of torch."""

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LOCK = (ROOT / "requirements.lock").read_text()
EXEMPT = re.compile(r"torch|nvidia-.+|cuda-.+")


def packages(lock: str) -> set[str]:
    return set(re.findall(r"(?m)^([a-z0-9._-]+)==", lock))


def unhashed(lock: str) -> set[str]:
    """Return the packages of a lock that have no hash."""
    blocks = re.split(r"(?m)^(?=[a-z])", lock)
    return {name for block in blocks if "--hash=sha256:" not in block for name in packages(block)}


def commands(backend: str) -> list[str]:
    """Return what `make setup` would run in a checkout that has no environment yet."""
    made = subprocess.run(
        ["make", "--dry-run", "--always-make", "setup", f"TORCH_BACKEND={backend}", "VENV=.venv-of-the-test"],
        cwd=ROOT,
        # Not those of the `make test` that runs this.
        env={name: value for name, value in os.environ.items() if not name.startswith("MAKE")},
        capture_output=True,
        text=True,
        check=True,
    )
    return made.stdout.replace("\\\n", " ").splitlines()


@pytest.mark.parametrize("backend", ["locked", "cpu", "cu126"])
def test_make_installs_nothing_without_a_hash_but_torch(backend: str) -> None:
    installs = [shlex.split(line) for line in commands(backend) if " pip install " in line]
    free = [words[words.index("install") + 1 :] for words in installs if "--require-hashes" not in words]
    assert len(installs) == len(free) + 2  # uv itself, and the lock
    *torch, own = free
    assert own == ["--quiet", "--no-deps", "--no-build-isolation", "-e", "."]
    if backend == "locked":
        assert torch == []
        return
    (words,) = torch
    version = re.search(r"(?m)^torch==\S+", LOCK)
    assert version is not None
    # What it needs is here already, or is compared with the lock as a constraint.
    assert words == [
        f"--torch-backend={backend}",
        *("--reinstall-package", "torch"),
        *("-c", ".venv-of-the-test/.checked.lock"),
        version[0],
    ]


def filtered(program: str, variable: str = "") -> str:
    given = ["-v", variable] if variable else []
    done = subprocess.run(
        ["awk", *given, program, "requirements.lock"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout


def test_torch_alone_and_what_its_builds_with_cuda_bring_are_exempt() -> None:
    (line,) = [line for line in commands("cpu") if line.startswith("awk ")]
    checked = filtered(shlex.split(line)[1])
    assert unhashed(checked) == set()
    assert {name for name in packages(LOCK) if EXEMPT.fullmatch(name)} == packages(LOCK) - packages(checked)
    assert {"torch", "nvidia-cublas", "cuda-toolkit"} <= packages(LOCK) - packages(checked)


def test_the_image_exempts_the_same() -> None:
    (program,) = re.findall(r"awk -v other=\"\$TORCH_BACKEND\" '([^']+)'", (ROOT / "deploy" / "Dockerfile").read_text())
    assert filtered(program, "other=") == LOCK
    checked = filtered(program, "other=cpu")
    assert unhashed(checked) == {"torch"}
    assert re.search(r"(?m)^torch==\S+$", checked)
    assert packages(LOCK) - packages(checked) == {
        name for name in packages(LOCK) if EXEMPT.fullmatch(name) and name != "torch"
    }


@pytest.mark.parametrize("path", ["Makefile", "deploy/Dockerfile", ".ci/run"])
def test_hashes_are_switched_off_nowhere(path: str) -> None:
    assert "--no-verify-hashes" not in (ROOT / path).read_text()
