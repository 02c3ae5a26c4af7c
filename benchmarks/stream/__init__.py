"""The stream: ingest, freshness, replay, restarts, kills, a soak; Quix Streams and a Faust table beside it.

The parts are `PARTS`; a name or several after the benchmark's own run these alone. All together take about
an hour and a half, of which the soak is half an hour and the kills most of the rest.
"""

import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import NamedTuple

from benchmarks.report import Bar, Report, Row
from benchmarks.store.workloads import Workload, zipf
from benchmarks.stream.chaos import kill9, rolling_restart
from benchmarks.stream.cpu_breakdown import CpuBreakdown, cpu_breakdown
from benchmarks.stream.environment import open_environment
from benchmarks.stream.freshness import freshness
from benchmarks.stream.ingest import Ingest, ingest
from benchmarks.stream.metrics_cost import metrics_cost
from benchmarks.stream.peers import LivePeers, live_peers, quix_recovery
from benchmarks.stream.restart import fill, replay, restart
from benchmarks.stream.soak import soak
from lifeline.cli.console import err
from lifeline.config import load_settings
from lifeline.core.vocabulary import Vocabulary
from lifeline.dev.broker import cluster_or_broker
from lifeline.sources.history import demo_history

REPLAYED, RESTARTED = 5_000_000, 10_000_000
KILLS = 300


class _Run(NamedTuple):
    """What a part gets."""

    servers: str
    notes: list[str]


def run(bootstrap_servers: str | None, parts: Sequence[str] = ()) -> Report:
    """Run all parts, or those that are named; every figure is of this one run."""
    loaded = load_settings(None, {"kafka.bootstrap_servers": bootstrap_servers})
    given = loaded.settings.kafka.bootstrap_servers if loaded.is_set("kafka.bootstrap_servers") else None
    notes = ["broker, nodes and callers share the machine; a node has the default settings"]
    rows: list[Row] = []
    with ExitStack() as stack:
        context = _Run(stack.enter_context(cluster_or_broker(given)), notes)
        for name in parts or PARTS:
            # What an earlier part wrote goes to the disk first, or this one pays for it.
            os.sync()
            err.print(f"{time.strftime('%H:%M:%S')} {name}", highlight=False)
            rows += PARTS[name](context)
    return Report("stream", rows, tuple(notes))


def _ingest(context: _Run) -> list[Row]:
    history = demo_history()
    context.notes.append(history.description)
    rails = Workload.of_history(history)
    peers = live_peers(context.servers, history.vocabulary, rails)
    context.notes.extend(peers.notes)
    of_rails = ingest(context.servers, history.vocabulary, rails)
    of_zipf = ingest(context.servers, Vocabulary(), zipf(2_000, 500))
    return [
        *_ingest_rows("ingest_rails", of_rails, cpu_breakdown(history.vocabulary, rails), peers),
        *_ingest_rows("ingest_zipf", of_zipf, cpu_breakdown(Vocabulary(), zipf(2_000, 500)), peers),
    ]


def _ingest_rows(name: str, measured: Ingest, parts: CpuBreakdown, peers: LivePeers) -> list[Row]:
    bars = {"quix_streams": 5, "faust_table": 20}
    return [
        Row(f"{name}_per_s", measured.per_s, "events/s", Bar(">=", 80_000), peers.per_s),
        Row(f"{name}_node_cores", measured.node_cpu_share, "cores"),
        Row(f"{name}_node_us", measured.node_cpu_us, "us of processor time an event"),
        Row(f"{name}_decode_us", parts.decode_us, "us of it, decoding"),
        Row(f"{name}_store_us", parts.store_us, "us of it, the store"),
        *(
            Row(f"{name}_over_{peer}", measured.per_s / per_s, "ratio", Bar(">=", bars[peer]))
            for peer, per_s in peers.per_s.items()
        ),
    ]


def _metrics(context: _Run) -> list[Row]:
    measured = metrics_cost(context.servers, Vocabulary(), zipf(2_000, 500))
    return [
        Row("metrics_cost_percent", measured.cpu_percent, "% of the node's processor time", Bar("<=", 1)),
        Row("metrics_rate_percent", measured.rate_percent, "% fewer events/s"),
    ]


def _freshness(context: _Run) -> list[Row]:
    per_s = 5_000
    measured = freshness(context.servers, Vocabulary(), per_s=per_s)
    return [
        Row("freshness_published_per_s", measured.per_s, "events/s", Bar(">=", 0.99 * per_s)),
        Row("freshness_samples", measured.samples, "calls"),
        Row("action_to_readable_p50_ms", measured.p50_ms, "ms"),
        Row("action_to_readable_p99_ms", measured.p99_ms, "ms", Bar("<=", 100), {"published": 2_000}),
    ]


def _replay(context: _Run) -> list[Row]:
    with open_environment(context.servers, Vocabulary()) as environment:
        fill(environment, REPLAYED)
        before = restart(environment, REPLAYED)
        measured = replay(environment, REPLAYED)
    history = demo_history()
    peers = quix_recovery(context.servers, history.vocabulary, Workload.of_history(history))
    context.notes.extend(peers.notes)
    return [
        Row("replay_per_s", measured.per_s, "events/s", Bar(">=", 200_000), peers.per_s),
        Row("replay_fingerprints_equal", float(measured.equal), "bool", Bar("==", 1)),
        Row("live_5m_per_s", before.ingest_per_s, "events/s"),
    ]


def _restart(context: _Run) -> list[Row]:
    with open_environment(context.servers, Vocabulary()) as environment:
        fill(environment, RESTARTED)
        measured = restart(environment, RESTARTED)
    return [
        Row("restart_10m_s", measured.ready, "s", Bar("<=", 5)),
        Row("restart_10m_store_s", measured.store, "s", Bar("<=", 1)),
        Row("live_10m_per_s", measured.ingest_per_s, "events/s"),
    ]


def _kills(context: _Run) -> list[Row]:
    return [
        Row(
            "chaos_kill9_fingerprints_equal", kill9(KILLS, bootstrap_servers=context.servers), "kills", Bar(">=", KILLS)
        )
    ]


def _rolling(context: _Run) -> list[Row]:
    return [Row("rolling_restart_failed_calls", rolling_restart(context.servers), "calls", Bar("==", 0))]


def _soak(context: _Run) -> list[Row]:
    measured = soak(context.servers, Vocabulary())
    return [
        Row("soak_rss_growth_percent", measured.growth_percent, "%", Bar("<=", 3)),
        Row("soak_rss_mib", measured.rss_mib, "MiB"),
        Row("soak_published_per_s", measured.per_s, "events/s", Bar(">=", 2_970)),
    ]


PARTS: dict[str, Callable[[_Run], list[Row]]] = {
    "ingest": _ingest,
    "metrics": _metrics,
    "freshness": _freshness,
    "replay": _replay,
    "restart": _restart,
    "rolling": _rolling,
    "kills": _kills,
    "soak": _soak,
}
