"""The kernels under AddressSanitizer: a process that touches a byte out of bounds ends with a report."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple, Self

from lifeline.scorer.kernels.build import build


def compiler() -> str | None:
    """Return the C++ compiler of the machine, if there is one."""
    return next((name for name in ("c++", "g++", "clang++") if shutil.which(name)), None)


class Sanitised(NamedTuple):
    """A library that is watched."""

    library: Path
    runtime: str
    """The sanitizer's own library."""

    @classmethod
    def build(cls, directory: Path) -> Self:
        """Build it, which takes most of a minute of one core."""
        found = compiler()
        assert found is not None
        library = directory / "sanitised.so"
        assert build(library, ("-fsanitize=address", "-g1", "-O1")) is None
        runtime = subprocess.run([found, "-print-file-name=libasan.so"], capture_output=True, text=True, check=True)
        return cls(library, runtime.stdout.strip())

    def run(self, script: str, *arguments: str) -> str:
        """Run a script, whose first argument is the library; returns what it printed, once it ended well."""
        environment = os.environ | {
            "LD_PRELOAD": self.runtime,
            # The interpreter's own memory is not freed at its end.
            "ASAN_OPTIONS": "detect_leaks=0",
        }
        done = subprocess.run(
            [sys.executable, "-c", script, str(self.library), *arguments],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout.strip()
