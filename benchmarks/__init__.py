"""Benchmarks: each of `MODULES` is one `lifeline bench NAME`, a module or package with a `run`."""

from collections.abc import Mapping
from typing import Final

MODULES: Final[Mapping[str, str]] = {
    "slice": "benchmarks.end_to_end",
    "store": "benchmarks.store",
    "stream": "benchmarks.stream",
    "model": "benchmarks.model",
    "score": "benchmarks.score",
    "gpu": "benchmarks.gpu",
    "hostile": "benchmarks.hostile",
}
