"""A whole request in process: read, select, encode, cross and heads."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch

from benchmarks.report import Bar, Row
from benchmarks.score.timing import times_ms
from benchmarks.score.world import QUERY, World
from scorer.kernels.library import VARIABLE
from scorer.scorer import Scorer
from scorer.settings import Precision
from scorer.weights import LoadedModel

_REQUESTS, _SLOW_REQUESTS = 200, 7


def request(world: World, peers: Mapping[str, float], notes: list[str]) -> list[Row]:
    """Score 256 candidates as a node does, and as the same code does with PyTorch alone."""
    del peers, notes
    rows = []
    with _forced("torch"):
        eager = np.median(_latencies(world, _scorer(world, "float32"), _SLOW_REQUESTS))
    with one_torch_thread():
        found = _latencies(world, _scorer(world, "bfloat16"), _REQUESTS)
    p50, p99 = (float(np.quantile(found, share)) for share in (0.5, 0.99))
    rows.append(Row("score_256_p50_ms", p50, "ms", Bar("<=", 18.0), {"eager PyTorch ms": float(eager)}))
    rows.append(Row("score_256_p99_ms", p99, "ms", Bar("<=", 30.0)))
    rows.append(Row("score_256_x_eager", float(eager) / p50, "x", Bar(">=", 6.0)))
    return rows


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Leave the cores to the kernels, as a node does."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _scorer(world: World, precision: Precision) -> Scorer:
    loaded = LoadedModel(world.model, world.manifest)
    return Scorer(loaded, world.manifest.vocabulary, world.embeddings, precision, os.cpu_count())


def _latencies(world: World, scorer: Scorer, count: int) -> list[float]:
    return times_ms(
        lambda: scorer.score(world.reader.read(world.user_id, QUERY), world.candidates, world.context), count
    )


@contextmanager
def _forced(implementation: str) -> Iterator[None]:
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = implementation
    try:
        yield
    finally:
        os.environ.pop(VARIABLE)
        if before is not None:
            os.environ[VARIABLE] = before
