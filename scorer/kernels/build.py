"""Builds the kernels with the C++ compiler of the machine. Without a compiler, PyTorch does their work.

`python scorer/kernels/build.py` builds them in place, as the build of the package does. CXX selects a compiler.
"""

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
LIBRARY = HERE / "lifeline_kernels.so"
_COMMON = [
    "-std=c++20",
    "-O3",
    "-fPIC",
    "-fvisibility=hidden",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-Wall",
    "-Wextra",
]
_AVX2 = ["-mavx2", "-mfma"]
_AVX512 = [*_AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"]
_BF16 = [*_AVX512, "-mavx512vnni", "-mavx512bf16"]
SOURCES = {
    "tokens.cpp": [],
    "selection.cpp": [],
    "selection_avx2.cpp": _AVX2,
    "selection_avx512.cpp": _AVX512,
    "selection_bf16.cpp": _BF16,
    "heads.cpp": [],
    "heads_avx2.cpp": _AVX2,
    "heads_avx512.cpp": _AVX512,
    "encoder.cpp": [],
    "encoder_avx2.cpp": _AVX2,
    "encoder_avx512.cpp": _AVX512,
    "encoder_bf16.cpp": _BF16,
    "encoder_int8.cpp": _BF16,
}
"""Each source file and the compiler flags of its instruction set."""


def build(library: Path = LIBRARY, extra: tuple[str, ...] = ()) -> str | None:
    """Compile and link; returns None, or why that failed. `extra` are further compiler flags."""
    compiler = shlex.split(os.environ.get("CXX", "")) or [_find_compiler() or ""]
    if not compiler[0] or shutil.which(compiler[0]) is None:
        return "there is no C++ compiler (Debian: apt-get install g++, or name one in CXX)"
    with tempfile.TemporaryDirectory(dir=library.parent, prefix=".build-") as objects:

        def compile_source(name: str) -> str:
            compiled = str(Path(objects) / f"{name}.o")
            _run([*compiler, *_COMMON, *SOURCES[name], *extra, "-c", str(HERE / "src" / name), "-o", compiled])
            return compiled

        try:
            with ThreadPoolExecutor() as pool:
                object_files = list(pool.map(compile_source, SOURCES))
            linked = Path(objects) / library.name
            _run([*compiler, "-shared", "-pthread", *extra, *object_files, "-o", str(linked)])
        except subprocess.CalledProcessError as error:
            return f"{shlex.join(error.cmd)} failed: {error.stderr.strip()[-2000:]}"
        # Processes that have mapped the earlier library keep it.
        linked.replace(library)
    return None


def _find_compiler() -> str | None:
    return next((name for name in ("c++", "g++", "clang++") if shutil.which(name)), None)


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)


if __name__ == "__main__":
    if (why := build()) is not None:
        sys.stderr.write(f"the kernels are not built: {why}\n")
        raise SystemExit(1)
