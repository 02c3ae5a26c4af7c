"""Build hook: compiles the kernels where there is a C++ compiler, and leaves them out where there is none."""

import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from packaging.tags import platform_tags

# By the package's path: an sdist has no folder scorer/ at its top.
KERNELS = "lifeline/scorer/kernels"


class KernelsHook(BuildHookInterface[Any]):
    """Puts the library beside `library.py`, in a wheel and in a checkout."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile the kernels; print a warning with the reason where that fails."""
        del version
        sys.path.insert(0, str(Path(self.root) / KERNELS))
        from build import LIBRARY, build  # noqa: PLC0415 - found by the line before

        if (reason := build()) is not None:
            self.app.display_warning(f"the kernels are not built, so PyTorch does their work, slower: {reason}")
            return
        build_data["artifacts"].append(f"{KERNELS}/{LIBRARY.name}")
        build_data["pure_python"] = False
        # Every CPython can load the library with ctypes: the wheel depends on the platform alone.
        build_data["tag"] = f"py3-none-{_platform()}"


def _platform() -> str:
    """Return the tag of this machine. A manylinux or musllinux tag would promise that the library runs on others."""
    return next(tag for tag in platform_tags() if not tag.startswith(("manylinux", "musllinux")))
