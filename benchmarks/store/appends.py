"""Appends by `PartitionStore.apply`, without Kafka: in order, at the cap, and where heads are not in memory."""

import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.store.workloads import BATCH, START_MS, Workload, scattered, zipf
from lifeline.core.actions import ActionBatch
from lifeline.store.memory import SharedMemory
from lifeline.store.partition import PartitionStore
from lifeline.store.settings import StoreSettings

RAILS_RUNS = 5
CAP_USERS = 60
CAP_EVENTS = 66_000
CAP_LATE = 0.02
COLD_USERS = 200_000
COLD_HELD = 0.15
COLD_HISTORY = 20
COLD_BATCHES = 400


class CapAppends(NamedTuple):
    """Appends to users that are full."""

    per_s: float
    """Median over tenths after the cap was reached."""
    first_per_s: float
    """The first tenth."""
    last_per_s: float
    """The last tenth."""


class ColdAppends(NamedTuple):
    """Appends of which most miss the head cache."""

    per_s: float
    hit_share: float
    """Heads found in memory."""


@contextmanager
def fresh_store(settings: StoreSettings | None = None) -> Iterator[PartitionStore]:
    """Give a store in a directory that goes with it."""
    settings = settings or StoreSettings()
    with tempfile.TemporaryDirectory(prefix="lifeline-bench-") as place:
        store = PartitionStore.open(
            Path(place) / "partition", partition=0, settings=settings, memory=SharedMemory(settings)
        )
        try:
            yield store
        finally:
            store.close()


def apply_all(store: PartitionStore, batches: Iterable[ActionBatch]) -> list[float]:
    """Apply batches, and return the seconds that each took."""
    times = []
    for batch in batches:
        started = time.perf_counter()
        store.apply(batch, offset=store.applied_offset + len(batch))
        times.append(time.perf_counter() - started)
    return times


def rails(workload: Workload) -> float:
    """Return events/s of the history in order of arrival, the median of several fresh stores."""
    batches, rates = workload.batches(), []
    for _ in range(RAILS_RUNS):
        with fresh_store() as store:
            rates.append(len(workload) / sum(apply_all(store, batches)))
    return float(np.median(rates))


def at_cap(store: PartitionStore, users: int = CAP_USERS, events: int = CAP_EVENTS) -> CapAppends:
    """Append `events` to each user, all in turn, 2 % late; what counts begins when all are at their cap."""
    workload = zipf(users, events, late=CAP_LATE)
    times = apply_all(store, workload.batches())
    full = -(-store.policy.max_explicit * users // BATCH) if store.policy else 0
    tenths = [BATCH * len(part) / part.sum() for part in np.array_split(np.array(times[full:]), 10)]
    return CapAppends(float(np.median(tenths)), float(tenths[0]), float(tenths[-1]))


def cold(users: int = COLD_USERS, batches: int = COLD_BATCHES) -> ColdAppends:
    """Append one event to each of 2,000 random users a batch; the head cache holds 15 % of them."""
    # How much memory a head takes follows from what it holds, so a first pass measures it.
    with fresh_store(StoreSettings(head_cache_mib=4_096)) as probe:
        apply_all(probe, zipf(2_000, COLD_HISTORY).batches())
        held, size, *_ = probe.memory.heads.statistics()
    settings = StoreSettings(head_cache_mib=COLD_HELD * users * size / held / (1 << 20))
    with fresh_store(settings) as store:
        apply_all(store, zipf(users, COLD_HISTORY).batches())
        before = store.memory.heads.statistics()
        late = START_MS + 400 * 86_400_000
        made = list(scattered(users, batches, first_ms=late, seed=3))
        times = apply_all(store, made)
        after = store.memory.heads.statistics()
        hits, misses = after.hits - before.hits, after.misses - before.misses
    tenths = [BATCH * len(part) / part.sum() for part in np.array_split(np.array(times), 10)]
    return ColdAppends(float(np.median(tenths)), hits / (hits + misses))
