"""Hostile producers and callers: one node under four attacks, while honest actions and reads go on.

A quiet phase comes first, then each attack for as long (`--seconds`), then a phase in which all is quiet again:

- records: mutated actions and items, batches that no library makes, bombs, transactions: 100 a second, five of them
  erasures;
- calls: random bytes, mutated requests, number bombs, odd metadata, resets, on every method: 100 a second;
- connections: 300 to the gRPC and the HTTP port that are silent, slow, or flood;
- waits: 300 reads at once that demand offsets which nobody publishes; those that are refused come again, 100 a second.

The names of attacks after the benchmark's own run these alone. An attacker is a process of its own with a niceness of
10, so that what is measured is the node and not the share of two cores that the attacker takes. The honest side is
another process: 500 actions and 100 reads a second, open loop. The node has the default settings.
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
from benchmarks.hostile.honest import Honesty, honest, lost, percentile_ms, within
from benchmarks.hostile.records import publish_records
from benchmarks.hostile.survival import Survival, wait_ready
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
    """A phase, of `time.monotonic`."""

    start: float
    end: float


class Attack(NamedTuple):
    """An attack that is over."""

    span: Span
    cores: float
    """Processor time of the attacker, cores."""


class Run(NamedTuple):
    """What was measured."""

    quiet: Span
    settled: Span
    attacks: dict[str, Attack]
    honesty: Honesty
    survival: Survival
    lost_actions: int
    ready: bool
    """Whether the node was ready at last."""


def run(bootstrap_servers: str | None, parts: Sequence[str] = (), *, seconds: float = SECONDS) -> Report:
    """Run the attacks, all or those that are named, `seconds` each."""
    loaded = load_settings(None, {"kafka.bootstrap_servers": bootstrap_servers})
    given = loaded.settings.kafka.bootstrap_servers if loaded.is_set("kafka.bootstrap_servers") else None
    notes = [
        f"{seconds:g} s each; broker, node, honest callers and attacker share the machine",
        "a read that failed counts as slow as its client is patient",
    ]
    with ExitStack() as stack:
        servers = stack.enter_context(cluster_or_broker(given))
        environment = stack.enter_context(open_environment(servers, Vocabulary()))
        node = stack.enter_context(environment.node("hostile"))
        _save_random_model(node.settings)
        node.start()
        node.wait_ready(READY_S)
        measured = _measure(stack, Survival(node), Target.of(node.settings), tuple(parts or PARTS), seconds, notes)
    return Report("hostile", [*_bars(measured), *_details(measured)], tuple(notes))


def _measure(
    stack: ExitStack, survival: Survival, target: Target, parts: Sequence[str], seconds: float, notes: list[str]
) -> Run:
    stack.enter_context(survival)
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
        err.print(f"{name}: {_counted(done, 15)}", highlight=False)
        notes.append(f"{name}: {sum(done.values()):,} ({_counted(done, 6)})")
        time.sleep(_BETWEEN_S)
    settled = _span(seconds / 2)
    honesty = honest_side.end(2 * _END_S)
    lost_actions = lost(honesty, target.grpc_address, target, _CAUGHT_UP_S)
    ready = wait_ready(target.http_address, _END_S)
    for death in survival.deaths:
        err.print(f"the node died: {death.why}", highlight=False)
    for said, times in survival.errors.most_common(20):
        err.print(f"the node's log, {times} times: {said}", highlight=False)
    failures = Counter(read.failure[:200] for read in honesty.reads if read.failure)
    for why, times in failures.most_common(5):
        err.print(f"an honest read failed, {times} times: {why}", highlight=False)
    return Run(quiet, settled, attacks, honesty, survival, lost_actions, ready)


def _span(seconds: float) -> Span:
    start = time.monotonic()
    time.sleep(seconds)
    return Span(start, start + seconds)


def _counted(done: Counter[str], most: int | None = None) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in done.most_common(most))


def times_x(quiet_ms: float, attacked_ms: float) -> float:
    """Return how many times slower reads were under an attack."""
    return attacked_ms / quiet_ms if quiet_ms else float("inf")


def _p99_ms(measured: Run, span: Span) -> float:
    return percentile_ms(within(measured.honesty.reads, *span, fresh=False), 99)


def _bars(measured: Run) -> list[Row]:
    """Return the rows that have to hold."""
    survival, honesty = measured.survival, measured.honesty
    failed = sum(bool(read.failure) for read in honesty.reads)
    quiet_ms = _p99_ms(measured, measured.quiet)
    worst = max(times_x(quiet_ms, _p99_ms(measured, attack.span)) for attack in measured.attacks.values())
    before = survival.median_mib(measured.quiet.start + 2 / 3 * _length(measured.quiet), measured.quiet.end)
    after = survival.median_mib(measured.settled.start + _length(measured.settled) / 2, measured.settled.end)
    return [
        Row("hostile_node_deaths", len(survival.deaths) + (not measured.ready), "deaths", Bar("==", 0)),
        Row("hostile_honest_lost", measured.lost_actions + failed, "actions and reads", Bar("==", 0)),
        Row("hostile_read_p99_x", worst, "times the quiet phase's", Bar("<=", 2)),
        Row("hostile_rss_growth_mib", after - before, "MiB", Bar("<=", 64)),
        Row("hostile_honest_lost_actions", measured.lost_actions, "actions"),
        Row("hostile_honest_failed_reads", failed, "reads"),
    ]


def _length(span: Span) -> float:
    return span.end - span.start


def _details(measured: Run) -> list[Row]:
    """Return what else is worth knowing."""
    survival, honesty = measured.survival, measured.honesty
    quiet_ms = _p99_ms(measured, measured.quiet)
    rows = [
        Row("hostile_honest_actions", sum(map(len, honesty.acknowledged.values())), "actions acknowledged"),
        Row("hostile_honest_unacknowledged", honesty.refused, "actions"),
        Row("hostile_peak_rss_mib", survival.peak_mib, "MiB"),
        *_reads("quiet", measured, measured.quiet),
    ]
    starts = [*(attack.span.start for attack in measured.attacks.values()), measured.settled.end]
    for (name, (span, cores)), until in zip(measured.attacks.items(), starts[1:], strict=True):
        rows.append(Row(f"hostile_{name}_read_p99_x", times_x(quiet_ms, _p99_ms(measured, span)), "times the quiet's"))
        rows.append(
            Row(f"hostile_{name}_deaths", sum(span.start <= death.at < until for death in survival.deaths), "deaths")
        )
        rows.append(Row(f"hostile_{name}_attacker_cores", cores, "cores"))
        rows += _reads(name, measured, span)
    return rows


def _reads(name: str, measured: Run, span: Span) -> list[Row]:
    plain = within(measured.honesty.reads, *span, fresh=False)
    fresh = within(measured.honesty.reads, *span, fresh=True)
    return [
        Row(f"hostile_{name}_reads", len(plain), "reads"),
        Row(f"hostile_{name}_failed_reads", sum(bool(read.failure) for read in (*plain, *fresh)), "reads"),
        Row(f"hostile_{name}_read_p50_ms", percentile_ms(plain, 50), "ms"),
        Row(f"hostile_{name}_read_p99_ms", percentile_ms(plain, 99), "ms"),
        Row(f"hostile_{name}_fresh_read_p50_ms", percentile_ms(fresh, 50), "ms"),
        Row(f"hostile_{name}_rss_mib", measured.survival.median_mib(*span), "MiB"),
    ]


def _save_random_model(settings: Settings) -> None:
    torch.manual_seed(0)
    model = TransAct(ModelConfig(heads=default_heads(settings.vocabulary), layers=1)).eval()
    weights.save(settings.scorer.models_dir, settings.scorer.model, model, settings.vocabulary)
