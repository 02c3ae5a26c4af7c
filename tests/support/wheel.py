"""The distribution as a user has it: the sdist, the wheel that is built from it, and environments with that wheel."""

import os
import shutil
import subprocess
import sys
import tarfile
from importlib.metadata import Distribution, distribution
from pathlib import Path
from typing import Self

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from lifeline.sources import HISTORY_VARIABLE

ROOT = Path(__file__).resolve().parents[2]


def build_sdist(place: Path) -> Path:
    """Build the sdist of the checkout in `place`; return its path."""
    build("sdist", ROOT, place)
    (sdist,) = place.glob("*.tar.gz")
    return sdist


def build_wheel(sdist: Path, place: Path) -> Path:
    """Unpack an sdist in `place` and build the wheel from it there; return its path."""
    with tarfile.open(sdist) as archive:
        archive.extractall(place, filter="data")
    (source,) = (path for path in place.iterdir() if path.is_dir())
    build("wheel", source, place)
    (wheel,) = place.glob("*.whl")
    return wheel


class Environment:
    """A virtual environment that has a wheel and the packages that it requires without extras, and nothing else.

    The packages are linked from the environment that runs the tests, so that nothing is fetched.
    """

    def __init__(self, place: Path) -> None:
        self.python = place / "bin" / "python"
        self._place = place

    @classmethod
    def create(cls, place: Path, wheel: Path) -> Self:
        """Make the environment in `place`."""
        environment = cls(place)
        _uv("venv", "--python", sys.executable, str(place), cwd=place.parent)
        _uv("pip", "install", "--python", str(environment.python), "--no-deps", str(wheel), cwd=place.parent)
        (installed,) = environment.packages.glob("lifeline_store-*.dist-info")
        for each in _closure(Distribution.at(installed)):
            environment._link(each)
        return environment

    @property
    def packages(self) -> Path:
        """Its site-packages."""
        (packages,) = self._place.glob("lib/python3.*/site-packages")
        return packages

    def run(self, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        """Run its Python in `cwd`, without the variables that would show it the checkout."""
        return run([str(self.python), *arguments], cwd=cwd)

    def _link(self, package: Distribution) -> None:
        for file in package.files or ():
            # Scripts lie above site-packages, and compiled files are made anew.
            if ".." in file.parts or file.suffix == ".pyc":
                continue
            link = self.packages / file
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.exists():
                link.symlink_to(Path(str(package.locate_file(file))).resolve())


def has_compiler() -> bool:
    """Whether a wheel that is built here has the kernels."""
    return any(shutil.which(name) for name in ("c++", "g++", "clang++"))


def _closure(package: Distribution) -> list[Distribution]:
    """Return what `package` requires without extras, and what that requires."""
    closure: dict[str, Distribution] = {}
    queue: list[tuple[Distribution, frozenset[str]]] = [(package, frozenset())]
    while queue:
        current, extras = queue.pop()
        for requirement in map(Requirement, current.requires or ()):
            environments: list[dict[str, str]] = [{"extra": extra} for extra in extras or ("",)]
            if requirement.marker and not any(map(requirement.marker.evaluate, environments)):
                continue
            name = canonicalize_name(requirement.name)
            if name not in closure:
                closure[name] = distribution(name)
                queue.append((closure[name], frozenset(requirement.extras)))
    return list(closure.values())


def run(command: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a command in `cwd`, without the variables that would show it the checkout."""
    hidden = {"PYTHONPATH", "VIRTUAL_ENV", "MYPYPATH", HISTORY_VARIABLE}
    return subprocess.run(
        command,
        cwd=cwd,
        env={name: value for name, value in os.environ.items() if name not in hidden},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


def build(target: str, source: Path, place: Path) -> None:
    """Build a wheel or an sdist of the sources in `source` into `place`."""
    _succeed([sys.executable, "-m", "hatchling", "build", "--target", target, "--directory", str(place)], source)


def _uv(*arguments: str, cwd: Path) -> None:
    _succeed([sys.executable, "-m", "uv", "--quiet", "--offline", *arguments], cwd)


def _succeed(command: list[str], cwd: Path) -> None:
    done = run(command, cwd)
    assert done.returncode == 0, done.stdout + done.stderr
