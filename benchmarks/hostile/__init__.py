"""Hostile producers and callers: one node under four attacks, with concurrent honest actions and reads.

A quiet phase is followed by the attacks, each of the same length (`--seconds`), and by another quiet phase:

- records: mutated actions and items, malformed batches, decompression bombs, transactions: 100 per second, five of them
  erasures;
- calls: random bytes, mutated requests, number bombs, unusual metadata, resets, on every method: 100 per second;
- connections: 300 connections to the gRPC and the HTTP port that are silent, slow, or flood;
- waits: 300 concurrent reads with a `min_offset` that is never reached; refused reads are retried, 100 per second.

Names after the benchmark's name select attacks. Each attacker is a process with a niceness of 10, so that the benchmark
measures the node, and not the CPU share of the attacker. The honest side is another process: 500 actions and 100 reads
per second, open loop. The node has the default settings.
"""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Final, NamedTuple

import torch

from benchmarks.hostile.calls import make_calls
from benchmarks.hostile.child import ATTACKER_NICE, Child, Work
from benchmarks.hostile.connections import hold_connections
from benchmarks.hostile.honest import HonestResult, honest, lost, percentile_ms, within
from benchmarks.hostile.records import publish_records
from benchmarks.hostile.supervisor import NodeSupervisor, wait_ready
from benchmarks.hostile.target import Target
from benchmarks.hostile.waits import hold_reads
from benchmarks.report import Bar, Report, Row
from benchmarks.stream.environment import READY_S, cpu_seconds, open_environment
from lifeline.cli.console import err
from lifeline.config import Settings, load_settings
from lifeline.core.vocabulary import Vocabulary
from lifeline.dev.broker import cluster_or_broker
from lifeline.scorer import weights
from lifeline.scorer.config import ModelConfig, default_heads
from lifeline.scorer.model import TransAct

SECONDS: Final = 60.0
PARTS: Final[Mapping[str, Work[Counter[str]]]] = {
    "records": publish_records,
    "calls": make_calls,
    "connections": hold_connections,
    "waits": hold_reads,
}
_WARM_UP_S: Final = 10.0
_BETWEEN_S: Final = 2.0
_END_S: Final = 60.0
_CAUGHT_UP_S: Final = 120.0


class Span(NamedTuple):
    """The time of a phase, by `time.monotonic`."""

    start: float
    end: float


class Attack(NamedTuple):
    """The time and cost of one attack."""

    span: Span
    cores: float
    """CPU time of the attacker, in cores."""


class Run(NamedTuple):
    """The measurements of one run."""

    quiet: Span
    settled: Span
    attacks: dict[str, Attack]
    result: HonestResult
    supervisor: NodeSupervisor
    lost_actions: int
    ready: bool
    """Whether the node was ready at the end."""


def run(bootstrap_servers: str | None, parts: Sequence[str] = (), *, seconds: float = SECONDS) -> Report:
    """Run all attacks, or those in `parts`, `seconds` each."""
    loaded = load_settings(None, {"kafka.bootstrap_servers": bootstrap_servers})
    configured_servers = loaded.settings.kafka.bootstrap_servers if loaded.is_set("kafka.bootstrap_servers") else None
    notes = [
        f"{seconds:g} s each; broker, node, honest callers and attacker share the machine",
        "a failed read counts with the timeout of its client",
    ]
    with ExitStack() as stack:
        servers = stack.enter_context(cluster_or_broker(configured_servers))
        environment = stack.enter_context(open_environment(servers, Vocabulary()))
        node = stack.enter_context(environment.node("hostile"))
        _save_random_model(node.settings)
        node.start()
        node.wait_ready(READY_S)
        measured = _measure(
            stack, NodeSupervisor(node), Target.of(node.settings), tuple(parts or PARTS), seconds, notes
        )
    return Report("hostile", [*_bars(measured), *_details(measured)], tuple(notes))


def _measure(
    stack: ExitStack, supervisor: NodeSupervisor, target: Target, parts: Sequence[str], seconds: float, notes: list[str]
) -> Run:
    stack.enter_context(supervisor)
    honest_side = stack.enter_context(Child(honest, target))
    honest_side.begin()
    time.sleep(_WARM_UP_S)
    quiet = _span(seconds)
    attacks = {}
    for name in parts:
        err.print(f"{time.strftime('%H:%M:%S')} {name}", highlight=False)
        with Child(PARTS[name], target, nice=ATTACKER_NICE) as attacker:
            attacker.begin()
            before_s = cpu_seconds(attacker.pid)
            attacks[name] = Attack(_span(seconds), (cpu_seconds(attacker.pid) - before_s) / seconds)
            done = attacker.end(_END_S)
        err.print(f"{name}: {_format_counts(done, 15)}", highlight=False)
        notes.append(f"{name}: {sum(done.values()):,} ({_format_counts(done, 6)})")
        time.sleep(_BETWEEN_S)
    settled = _span(seconds / 2)
    result = honest_side.end(2 * _END_S)
    lost_actions = lost(result, target.grpc_address, target, _CAUGHT_UP_S)
    ready = wait_ready(target.http_address, _END_S)
    for death in supervisor.deaths:
        err.print(f"the node died: {death.why}", highlight=False)
    for message, times in supervisor.errors.most_common(20):
        err.print(f"the node's log, {times} times: {message}", highlight=False)
    failures = Counter(read.failure[:200] for read in result.reads if read.failure)
    for why, times in failures.most_common(5):
        err.print(f"an honest read failed, {times} times: {why}", highlight=False)
    return Run(quiet, settled, attacks, result, supervisor, lost_actions, ready)


def _span(seconds: float) -> Span:
    start = time.monotonic()
    time.sleep(seconds)
    return Span(start, start + seconds)


def _format_counts(done: Counter[str], most: int | None = None) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in done.most_common(most))


def times_x(quiet_ms: float, attacked_ms: float) -> float:
    """Return how many times slower reads were under an attack."""
    return attacked_ms / quiet_ms if quiet_ms else float("inf")


def _p99_ms(measured: Run, span: Span) -> float:
    return percentile_ms(within(measured.result.reads, *span, fresh=False), 99)


def _bars(measured: Run) -> list[Row]:
    """Return the rows with bars."""
    supervisor, result = measured.supervisor, measured.result
    failed = sum(bool(read.failure) for read in result.reads)
    quiet_ms = _p99_ms(measured, measured.quiet)
    worst = max(times_x(quiet_ms, _p99_ms(measured, attack.span)) for attack in measured.attacks.values())
    before = supervisor.median_mib(measured.quiet.start + 2 / 3 * _length(measured.quiet), measured.quiet.end)
    after = supervisor.median_mib(measured.settled.start + _length(measured.settled) / 2, measured.settled.end)
    return [
        Row("hostile_node_deaths", len(supervisor.deaths) + (not measured.ready), "deaths", Bar("==", 0)),
        Row("hostile_honest_lost", measured.lost_actions + failed, "actions and reads", Bar("==", 0)),
        Row("hostile_read_p99_x", worst, "times the quiet phase's", Bar("<=", 2)),
        Row("hostile_rss_growth_mib", after - before, "MiB", Bar("<=", 64)),
        Row("hostile_honest_lost_actions", measured.lost_actions, "actions"),
        Row("hostile_honest_failed_reads", failed, "reads"),
    ]


def _length(span: Span) -> float:
    return span.end - span.start


def _details(measured: Run) -> list[Row]:
    """Return further rows, without bars."""
    supervisor, result = measured.supervisor, measured.result
    quiet_ms = _p99_ms(measured, measured.quiet)
    rows = [
        Row("hostile_honest_actions", sum(map(len, result.acknowledged.values())), "actions acknowledged"),
        Row("hostile_honest_unacknowledged", result.refused, "actions"),
        Row("hostile_peak_rss_mib", supervisor.peak_mib, "MiB"),
        *_reads("quiet", measured, measured.quiet),
    ]
    starts = [*(attack.span.start for attack in measured.attacks.values()), measured.settled.end]
    for (name, (span, cores)), until in zip(measured.attacks.items(), starts[1:], strict=True):
        rows.append(Row(f"hostile_{name}_read_p99_x", times_x(quiet_ms, _p99_ms(measured, span)), "times the quiet's"))
        rows.append(
            Row(f"hostile_{name}_deaths", sum(span.start <= death.at < until for death in supervisor.deaths), "deaths")
        )
        rows.append(Row(f"hostile_{name}_attacker_cores", cores, "cores"))
        rows += _reads(name, measured, span)
    return rows


def _reads(name: str, measured: Run, span: Span) -> list[Row]:
    plain = within(measured.result.reads, *span, fresh=False)
    fresh = within(measured.result.reads, *span, fresh=True)
    return [
        Row(f"hostile_{name}_reads", len(plain), "reads"),
        Row(f"hostile_{name}_failed_reads", sum(bool(read.failure) for read in (*plain, *fresh)), "reads"),
        Row(f"hostile_{name}_read_p50_ms", percentile_ms(plain, 50), "ms"),
        Row(f"hostile_{name}_read_p99_ms", percentile_ms(plain, 99), "ms"),
        Row(f"hostile_{name}_fresh_read_p50_ms", percentile_ms(fresh, 50), "ms"),
        Row(f"hostile_{name}_rss_mib", measured.supervisor.median_mib(*span), "MiB"),
    ]


def _save_random_model(settings: Settings) -> None:
    torch.manual_seed(0)
    model = TransAct(ModelConfig(heads=default_heads(settings.vocabulary), layers=1)).eval()
    weights.save(settings.scorer.models_dir, settings.scorer.model, model, settings.vocabulary)
