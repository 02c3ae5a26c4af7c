"""Whole reads of users at their cap, by `SequenceReader`, in this process."""

import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.store.workloads import user_names
from lifeline.core.sequence import EMBEDDING_DIM, Column, SequenceQuery
from lifeline.store.embeddings import EmbeddingTable
from lifeline.store.partition import PartitionStore
from lifeline.store.reader import SequenceReader

READS = 1_500


class Latency(NamedTuple):
    """Milliseconds."""

    p50: float
    p99: float


class Reads(NamedTuple):
    """The reads of the table."""

    whole: Latency
    with_embeddings: Latency
    newest_100: Latency
    batch_of_20: Latency
    """Newest 1,000 of 20 users by `read_many`."""


def reads(store: PartitionStore, users: int) -> Reads:
    """Read users in turn, so that no two reads in a row are of the same chunks; all are at the cap."""
    names = [name.decode() for name in user_names(users)]
    with tempfile.TemporaryDirectory(prefix="lifeline-bench-") as place:
        table = EmbeddingTable.open(Path(place))
        with store.view() as view:
            ids = view.item_ids.copy()
        rng = np.random.default_rng(5)
        rows = rng.integers(-127, 128, (len(ids), EMBEDDING_DIM)).astype(np.int8)
        table.apply(ids, rows, np.ones(len(ids), np.uint32), partition=0, offset=1)
        reader = SequenceReader(store, table)
        whole = SequenceQuery()
        answers = (
            _timed(reader, names, whole),
            _timed(reader, names, SequenceQuery(columns=Column.ALL)),
            _timed(reader, names, SequenceQuery(newest=100)),
        )
        batches = []
        for at in range(200):
            chosen = [names[(at * 20 + row) % len(names)] for row in range(20)]
            started = time.perf_counter()
            reader.read_many(chosen, SequenceQuery(newest=1_000))
            batches.append(time.perf_counter() - started)
        table.close()
    return Reads(*answers, _latency(batches))


def _timed(reader: SequenceReader, names: list[str], query: SequenceQuery) -> Latency:
    for name in names:
        reader.read(name, query)
    times = []
    for at in range(READS):
        started = time.perf_counter()
        reader.read(names[at % len(names)], query)
        times.append(time.perf_counter() - started)
    return _latency(times)


def _latency(seconds: list[float]) -> Latency:
    p50, p99 = np.percentile(np.array(seconds) * 1_000, [50, 99])
    return Latency(float(p50), float(p99))
