"""What `make setup` and the image install is compared with the hashes of the lock, but for another build of torch."""

import os
import re
import shlex
import subprocess
import tomllib
from pathlib import Path

import pytest

import lifeline

ROOT = Path(__file__).resolve().parents[2]
LOCK = (ROOT / "requirements/all.lock").read_text()
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
        ["awk", *given, program, "requirements/all.lock"], cwd=ROOT, capture_output=True, text=True, check=True
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


def _texts() -> list[Path]:
    folders = ("lifeline", "store", "stream", "scorer", "benchmarks", "docs", "deploy", "examples", "requirements")
    found = [*ROOT.glob("*"), *(path for name in folders for path in (ROOT / name).rglob("*"))]
    kinds = {"", ".py", ".md", ".toml", ".txt", ".yaml", ".lock", ".in"}
    return [path for path in found if path.is_file() and path.suffix in kinds]


def test_no_text_has_anybody_install_the_stranger_that_is_called_lifeline_on_pypi() -> None:
    wrong = re.compile(r"\blifeline\[[a-z]|\b(pip|uv) install\b[^\n]*\blifeline\b(?![-./\w])")
    assert wrong.search("install lifeline[all]")
    assert wrong.search("pip install -U lifeline")
    texts = _texts()
    assert ROOT / "README.md" in texts
    assert [str(path) for path in texts if wrong.search(path.read_text(errors="replace"))] == []


def test_the_distribution_has_another_name_and_the_version_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["name"] == "lifeline-store"
    assert project["version"] == lifeline.__version__
    own = [each for extra in project["optional-dependencies"].values() for each in extra if each.startswith("lifeline")]
    assert own
    assert all(each.startswith("lifeline-store[") for each in own)
