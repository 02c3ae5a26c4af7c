"""The breakdown of live ingest's processor time: decoding and the store, timed without Kafka on the same records.

The rest of the node's processor time is the fetch, the Kafka protocol and the updater.
"""

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.store.workloads import Workload
from benchmarks.stream.load import values
from lifeline.core.partitioner import partitions_of
from lifeline.core.vocabulary import Vocabulary
from lifeline.store.gc_tuning import tune_gc
from lifeline.store.memory import SharedMemory
from lifeline.store.partition import PartitionStore
from lifeline.store.settings import StoreSettings
from lifeline.stream.apply import apply_steps
from lifeline.stream.decode import DecodedBatch, Rules, decode
from lifeline.stream.record import LOG_APPEND_TIME
from lifeline.stream.settings import UpdaterSettings

PARTITIONS = 4


class CpuBreakdown(NamedTuple):
    """Microseconds for each event."""

    decode_us: float
    store_us: float


class _Record(NamedTuple):
    topic: str
    partition: int
    offset: int
    timestamp: int
    timestamp_type: int
    key: bytes
    value: bytes
    headers: Sequence[tuple[str, bytes | None]] = ()


def cpu_breakdown(vocabulary: Vocabulary, workload: Workload) -> CpuBreakdown:
    """Decode and apply `workload`, one partition after another, in batches of the default size."""
    tune_gc()
    settings = UpdaterSettings()
    rules = Rules.of(vocabulary, PARTITIONS, settings)
    partition = partitions_of(workload.user_ids, PARTITIONS)[workload.user_number]
    decode_s = store_s = 0.0
    with tempfile.TemporaryDirectory(prefix="lifeline-cpu-") as directory:
        memory = SharedMemory(StoreSettings())
        for number in range(PARTITIONS):
            rows = np.flatnonzero(partition == number)
            times = workload.timestamp_ms[rows].tolist()
            records = [
                _Record("actions", number, offset, times[offset], LOG_APPEND_TIME, key, value)
                for offset, (key, value) in enumerate(values(workload, rows))
            ]
            batches = [
                records[at : at + settings.batch_max_records]
                for at in range(0, len(records), settings.batch_max_records)
            ]
            started = time.perf_counter()
            decoded: list[DecodedBatch] = [decode(batch, rules) for batch in batches]
            decode_s += time.perf_counter() - started
            store = PartitionStore.open(
                Path(directory) / str(number), partition=number, settings=StoreSettings(), memory=memory
            )
            started = time.perf_counter()
            for batch_decoded in decoded:
                apply_steps(store, batch_decoded.steps)
            store_s += time.perf_counter() - started
            store.close()
    return CpuBreakdown(decode_s / len(workload) * 1e6, store_s / len(workload) * 1e6)
