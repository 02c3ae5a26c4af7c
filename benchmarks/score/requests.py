"""A whole request in process: read, select, encode, cross and heads."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch

from benchmarks.report import Bar, Row
from benchmarks.score.timing import times_ms
from benchmarks.score.world import World
from lifeline.scorer.backend import backend_of
from lifeline.scorer.history_cache import HistoryCache
from lifeline.scorer.kernels.instruction_set import InstructionSet, using
from lifeline.scorer.precision import Precision
from lifeline.scorer.scorer import Scorer
from lifeline.scorer.weights import LoadedModel

_REQUESTS, _SLOW_REQUESTS = 200, 7


def request(world: World, peers: Mapping[str, float], notes: list[str]) -> list[Row]:
    """Score 256 candidates as a node does, and as the same code does with PyTorch alone; every request reads.

    But for `score_256_again`: there the user has done nothing since the last one.
    """
    del peers, notes
    rows = []
    nothing_kept = HistoryCache(0)
    with using(InstructionSet.NONE):
        eager = np.median(_latencies(world, _scorer(world, Precision.FLOAT32), nothing_kept, _SLOW_REQUESTS))
    with one_torch_thread():
        scorer = _scorer(world, Precision.BFLOAT16)
        found = _latencies(world, scorer, nothing_kept, _REQUESTS)
        kept = _latencies(world, scorer, HistoryCache(1 << 26), _REQUESTS)
    p50, p99 = (float(np.quantile(found, share)) for share in (0.5, 0.99))
    rows.append(Row("score_256_p50_ms", p50, "ms", Bar("<=", 18.0), {"eager PyTorch ms": float(eager)}))
    rows.append(Row("score_256_p99_ms", p99, "ms", Bar("<=", 30.0)))
    rows.append(Row("score_256_again_p50_ms", float(np.median(kept)), "ms"))
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
    backend = backend_of(loaded, precision, os.cpu_count())
    return Scorer(loaded, world.manifest.vocabulary, world.embeddings, backend)


def _latencies(world: World, scorer: Scorer, tables: HistoryCache, count: int) -> list[float]:
    def call() -> None:
        _, history = tables.history(world.reader, world.user_id, scorer.config)
        scorer.score(history, world.candidates, world.context)

    return times_ms(call, count)
