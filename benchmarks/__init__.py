"""Benchmarks: each of `NAMES` is one `lifeline bench NAME`, and a module or package with a `run`."""

NAMES = ("slice", "store", "stream", "model", "score", "gpu", "hostile")
