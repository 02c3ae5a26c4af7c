"""The store alone, without Kafka: bytes an event, appends, whole reads, opening after kill -9, memory; peers."""

import os
import time
from collections.abc import Mapping

from benchmarks.peers import NOT_MEASURED, PeerFigures, PeerHistory, measure
from benchmarks.report import Bar, Report, Row
from benchmarks.store import processes
from benchmarks.store.appends import CAP_USERS, apply_all, at_cap, fresh_store, rails
from benchmarks.store.reads import reads
from benchmarks.store.workloads import Workload, inline_bytes, zipf
from lifeline.cli.console import err
from lifeline.sources.history import History, demo_history
from lifeline.store.gc_tuning import tune_gc
from lifeline.store.partition import PartitionStore

ZIPF_USERS, ZIPF_EVENTS = 200, 16_384


def run(bootstrap_servers: str | None) -> Report:  # noqa: ARG001 - the store needs no Kafka
    """Run it all, about six minutes; every figure is of this one run."""
    history = demo_history()
    tune_gc()
    err.print(history.description, highlight=False)
    peers = _peers(history)
    rows = [
        *_rails(Workload.of_history(history), peers),
        *_zipf(),
        *_full(peers),
        *_cold(),
        *_opening(),
        *_memory(peers),
    ]
    notes = [
        history.description,
        "one thread applies, batches of 2,000; reads are of users at their cap in turn, all in the block cache",
        "Python's garbage collector looks as rarely as in a node (store/gc_tuning.py)",
        *(peers.notes if peers else (NOT_MEASURED,)),
    ]
    return Report("store", rows, tuple(notes))


def _peers(history: History) -> PeerFigures | None:
    _say("peers")
    return measure(
        PeerHistory(
            history.user_id,
            history.timestamp_ms,
            history.item_id,
            history.action_type,
            history.surface,
            history.embeddings.item_id,
            history.embeddings.embedding,
        )
    )


def _rails(workload: Workload, peers: PeerFigures | None) -> list[Row]:
    _say("the history: bytes and appends")
    with fresh_store() as store:
        apply_all(store, workload.batches())
        store.compact()
        events = store.state.events
        sequences, total = _sequence_bytes(store) / events, store.statistics().directory_bytes / events
    return [
        Row(
            "rails_sequence_bytes_per_event",
            sequences,
            "B",
            Bar("<=", 4.5),
            peers.bytes_per_event if peers else {},
        ),
        Row("rails_total_bytes_per_event", total, "B", Bar("<=", 7)),
        Row(
            "append_rails_per_s",
            rails(workload),
            "events/s",
            Bar(">=", 300_000),
            peers.append_per_s if peers else {},
        ),
    ]


def _zipf() -> list[Row]:
    _say(f"Zipf: bytes of {ZIPF_USERS} users at {ZIPF_EVENTS:,} events")
    workload = zipf(ZIPF_USERS, ZIPF_EVENTS)
    with fresh_store() as store:
        times = apply_all(store, workload.batches())
        store.compact()
        sequences = _sequence_bytes(store) / store.state.events
        total = store.statistics().directory_bytes / store.state.events
    return [
        Row("zipf_bytes_per_event", sequences, "B", Bar("<=", 5.5), {"inline_embedding_zstd": inline_bytes(workload)}),
        Row("zipf_total_bytes_per_event", total, "B"),
        Row("append_zipf_per_s", ZIPF_USERS * ZIPF_EVENTS / sum(times), "events/s"),
    ]


def _full(peers: PeerFigures | None) -> list[Row]:
    _say(f"{CAP_USERS} users at their cap: appends and whole reads")
    with fresh_store() as store:
        appended = at_cap(store)
        measured = reads(store, CAP_USERS)
    p50, p99 = (peers.read_16k_p50_ms, peers.read_16k_p99_ms) if peers else ({}, {})
    return [
        Row("append_at_cap_per_s", appended.per_s, "events/s", Bar(">=", 180_000)),
        Row(
            "append_at_cap_last_over_first_tenth",
            appended.last_per_s / appended.first_per_s,
            "ratio",
            Bar(">=", 0.9),
        ),
        Row("read_16k_p50_ms", measured.whole.p50, "ms", Bar("<=", 0.8), p50),
        Row("read_16k_p99_ms", measured.whole.p99, "ms", Bar("<=", 1.5), p99),
        Row("read_16k_embeddings_p50_ms", measured.with_embeddings.p50, "ms", Bar("<=", 1.0)),
        Row("read_16k_embeddings_p99_ms", measured.with_embeddings.p99, "ms"),
        Row("read_100_p50_ms", measured.newest_100.p50, "ms", Bar("<=", 0.12)),
        Row("read_100_p99_ms", measured.newest_100.p99, "ms"),
        Row("read_many_20x1000_p50_ms", measured.batch_of_20.p50, "ms"),
    ]


def _cold() -> list[Row]:
    _say("one event for each of 2,000 of 200,000 users a batch")
    measured = processes.cold_appends()
    return [
        Row("append_cold_per_s", measured.per_s, "events/s", Bar(">=", 110_000)),
        Row("append_cold_head_hit_share", measured.hit_share, "ratio"),
    ]


def _opening() -> list[Row]:
    _say("opening after kill -9: 1,000,000 and 10,000,000 events")
    small, large = processes.opening(1_000_000), processes.opening(10_000_000)
    return [
        Row("open_10m_s", large.partition + large.embeddings, "s", Bar("<=", 1.0)),
        Row(
            "open_10m_over_1m",
            (large.partition + large.embeddings) / (small.partition + small.embeddings),
            "ratio",
            Bar("<=", 1.2),
        ),
        Row("open_10m_partition_s", large.partition, "s"),
        Row("open_1m_items_embeddings_s", large.embeddings, "s", Bar("<=", 0.5)),
    ]


def _memory(peers: PeerFigures | None) -> list[Row]:
    _say("64 partitions: 1 GiB written, everything read once")
    measured = processes.memory()
    caches: Mapping[str, float] = (
        {f"{name}_block_cache": float(mib) for name, mib in peers.block_cache_mib.items()} if peers else {}
    )
    return [
        Row("rss_64_partitions_mb", max(measured.written, measured.scanned), "MiB", Bar("<=", 350), caches),
        Row("rss_64_partitions_empty_mb", measured.opened, "MiB"),
    ]


def _sequence_bytes(store: PartitionStore) -> int:
    families = store.statistics().families
    return families["rows"].table_bytes + families["chunks"].table_bytes


def _say(what: str) -> None:
    # What earlier parts wrote goes to the disk first, or the next one pays for it.
    os.sync()
    err.print(f"{time.strftime('%H:%M:%S')} {what}", highlight=False)
