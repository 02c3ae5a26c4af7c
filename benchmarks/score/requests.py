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
from lifeline.scorer.kernels.instruction_set import InstructionSet, override
from lifeline.scorer.precision import Precision
from lifeline.scorer.scorer import Scorer
from lifeline.scorer.weights import LoadedModel

_REQUESTS, _SLOW_REQUESTS = 200, 7


def request(world: World, peers: Mapping[str, float], notes: list[str]) -> list[Row]:
    """Score 256 candidates with a node's settings, and with PyTorch alone; every request reads the store.

    Except `score_256_again`: there the history cache is valid.
    """
    del peers, notes
    rows = []
    no_cache = HistoryCache(0)
    with override(InstructionSet.NONE):
        eager = np.median(_latencies(world, _scorer(world, Precision.FLOAT32), no_cache, _SLOW_REQUESTS))
    with single_torch_thread():
        scorer = _scorer(world, Precision.BFLOAT16)
        times = _latencies(world, scorer, no_cache, _REQUESTS)
        kept = _latencies(world, scorer, HistoryCache(1 << 26), _REQUESTS)
    p50, p99 = (float(np.quantile(times, share)) for share in (0.5, 0.99))
    rows.append(Row("score_256_p50_ms", p50, "ms", Bar("<=", 18.0), {"eager PyTorch ms": float(eager)}))
    rows.append(Row("score_256_p99_ms", p99, "ms", Bar("<=", 30.0)))
    rows.append(Row("score_256_again_p50_ms", float(np.median(kept)), "ms"))
    rows.append(Row("score_256_x_eager", float(eager) / p50, "x", Bar(">=", 6.0)))
    return rows


@contextmanager
def single_torch_thread() -> Iterator[None]:
    """Set torch to one thread, as a node does, so that the kernels have the cores."""
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
