"""Build hook: the kernels are compiled where there is a C++ compiler, and left out where there is none."""

import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

KERNELS = Path(__file__).resolve().parent / "scorer" / "kernels"


class KernelsHook(BuildHookInterface[Any]):
    """Puts the library beside `scorer/kernels/library.py`, of a wheel and of a checkout alike."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and say why not where that fails."""
        del version
        sys.path.insert(0, str(KERNELS))
        from build import LIBRARY, build  # noqa: PLC0415 - found by the line before

        if (why := build()) is not None:
            self.app.display_warning(f"the kernels are not built, and PyTorch does their work, slower: {why}")
            return
        build_data["artifacts"].append(str(LIBRARY.relative_to(self.root)))
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
