"""What needs a process of its own: opening after kill -9, cold appends, and the memory of 64 partitions."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.store import appends
from benchmarks.store.workloads import BATCH, START_MS, codes, user_names
from lifeline.core.actions import ActionBatch, Kind
from lifeline.core.sequence import EMBEDDING_DIM, SequenceQuery
from lifeline.store.embeddings import EmbeddingTable
from lifeline.store.gc_tuning import tune_gc
from lifeline.store.memory import SharedMemory
from lifeline.store.partition import PartitionStore
from lifeline.store.reader import SequenceReader
from lifeline.store.settings import StoreSettings

ITEMS = 1_000_000
"""In all; each of the 64 partitions has its share of them."""
USERS = 2_000
OPENINGS = 5
PARTITIONS = 64
WRITTEN_BYTES = 1 << 30
_MIB = 1 << 20
_CHILD = "import sys; from benchmarks.store import processes; getattr(processes, sys.argv[1])(*sys.argv[2:])"


class Opening(NamedTuple):
    """Seconds from the call to a store that can be read, medians of several openings after the same kill -9."""

    partition: float
    embeddings: float


class Memory(NamedTuple):
    """MiB above an interpreter with the same imports."""

    opened: float
    written: float
    scanned: float
    scanned_events: int


def opening(events: int) -> Opening:
    """Kill -9 a process that has applied `events` events on a million items, and open what it leaves."""
    with tempfile.TemporaryDirectory(prefix="lifeline-bench-") as place:
        built = Path(place) / "built"
        child = _start("build", built, events)
        if child.stdout is None or child.stdout.readline().strip() != "applied":
            raise RuntimeError("the process that builds the partition ended early: see its errors above")
        child.send_signal(signal.SIGKILL)
        child.wait()
        times = []
        for number in range(OPENINGS):
            copy = Path(place) / f"copy-{number}"
            shutil.copytree(built, copy)
            times.append(json.loads(_output("open_both", copy)))
            shutil.rmtree(copy)
    partition, embeddings = np.median(np.array(times), axis=0)
    return Opening(float(partition), float(embeddings))


def memory() -> Memory:
    """Open 64 partitions, write 1 GiB to their logs, read every event once."""
    with tempfile.TemporaryDirectory(prefix="lifeline-bench-") as place:
        return Memory(*json.loads(_output("fill", place)))


def cold_appends() -> appends.ColdAppends:
    """Measure cold appends in a process that has not done anything else: what memory it holds decides them."""
    return appends.ColdAppends(*json.loads(_output("measure_cold")))


def measure_cold() -> None:
    """Child: print what cold appends come to."""
    tune_gc()
    print(json.dumps(appends.cold()))


def build(path: str, events: str) -> None:
    """Child: apply events, say so, and wait to be killed."""
    settings = StoreSettings()
    place = Path(path)
    table = EmbeddingTable.open(place / "items")
    rng = np.random.default_rng(11)
    ids = rng.integers(1, 1 << 63, ITEMS, dtype=np.uint64)
    rows = rng.integers(-127, 128, (ITEMS, EMBEDDING_DIM)).astype(np.int8)
    table.apply(ids, rows, np.ones(ITEMS, np.uint32), partition=0, offset=1)
    table.sync()
    store = PartitionStore.open(place / "partition", partition=0, settings=settings, memory=SharedMemory(settings))
    names = user_names(USERS)
    for batch in range(int(events) // BATCH):
        # Every item is seen within the first million events.
        seen = np.arange(batch * BATCH, (batch + 1) * BATCH) % ITEMS
        timestamp_ms = np.full(BATCH, START_MS + batch * 30_000) + rng.integers(0, 30_000, BATCH)
        store.apply(
            ActionBatch(
                names,
                timestamp_ms,
                ids[seen],
                codes(rng, BATCH),
                np.zeros(BATCH, np.uint8),
                timestamp_ms,
            ),
            offset=store.applied_offset + BATCH,
        )
    print("applied", flush=True)
    time.sleep(3_600)


def open_both(path: str) -> None:
    """Child: print the seconds that the partition and the embedding table take to open."""
    settings = StoreSettings()
    shared = SharedMemory(settings)
    started = time.perf_counter()
    store = PartitionStore.open(Path(path) / "partition", partition=0, settings=settings, memory=shared)
    opened = time.perf_counter()
    table = EmbeddingTable.open(Path(path) / "items")
    done = time.perf_counter()
    if store.items != ITEMS or len(table) != ITEMS:
        raise RuntimeError(f"{store.items} and {len(table)} items were opened, not {ITEMS}")
    print(json.dumps([opened - started, done - opened]))
    store.close()
    table.close()


def fill(path: str) -> None:
    """Child: print what its memory grew by."""
    tune_gc()
    before = _rss()
    settings = StoreSettings()
    shared = SharedMemory(settings)
    stores = [
        PartitionStore.open(Path(path) / str(number), partition=number, settings=settings, memory=shared)
        for number in range(PARTITIONS)
    ]
    opened = _rss()
    rng = np.random.default_rng(12)
    items = rng.integers(1, 1 << 63, ITEMS // PARTITIONS, dtype=np.uint64)
    names = [[f"{number}-{name.decode()}".encode() for name in user_names(4_000)] for number in range(PARTITIONS)]
    round_number = 0
    while sum(store.written_bytes for store in stores) < WRITTEN_BYTES:
        for number, store in enumerate(stores):
            chosen = rng.choice(4_000, BATCH)
            timestamp_ms = np.sort(START_MS + round_number * 60_000 + rng.integers(0, 60_000, BATCH))
            store.apply(
                ActionBatch(
                    [names[number][user] for user in chosen.tolist()],
                    timestamp_ms,
                    items[rng.integers(0, len(items), BATCH)],
                    codes(rng, BATCH),
                    np.zeros(BATCH, np.uint8),
                    timestamp_ms,
                ),
                offset=store.applied_offset + BATCH,
            )
        round_number += 1
    written = _rss()
    scanned = 0
    for store in stores:
        reader = SequenceReader(store)
        for user in store.users():
            scanned += reader.read(user, SequenceQuery(kinds=tuple(Kind))).sequences[Kind.EXPLICIT].length
    after = _rss()
    print(json.dumps([(mib - before) / _MIB for mib in (opened, written, after)] + [scanned]))
    for store in stores:
        store.close()


def _start(function: str, *arguments: object) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", _CHILD, function, *map(str, arguments)], stdout=subprocess.PIPE, text=True
    )


def _output(function: str, *arguments: object) -> str:
    child = _start(function, *arguments)
    output, _ = child.communicate()
    if child.returncode:
        raise RuntimeError(f"the process for {function} failed: see its errors above")
    return output


def _rss() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
