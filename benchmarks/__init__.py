"""Benchmarks: each module is one `lifeline bench NAME`."""
