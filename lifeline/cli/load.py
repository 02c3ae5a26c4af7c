"""`lifeline load`: the load generator."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lifeline.cli.options import AddressOption, ConfigOption, DataDirOption, JsonOption, load_config
from lifeline.cli.output import Output, Part, Table

if TYPE_CHECKING:
    from hdrh.histogram import HdrHistogram

    from lifeline.ops.load import LoadResult

_LATE_MS = 10
"""Above this delay, latencies say more about this process than about the node."""


def load(
    rate: Annotated[float, typer.Option(min=0.001, help="calls per second, on average")] = 50.0,
    seconds: Annotated[float, typer.Option(min=0.1, help="how long to send calls")] = 10.0,
    scores: Annotated[float, typer.Option(min=0, max=1, help="share of Score calls; the rest are reads")] = 0.5,
    candidates: Annotated[int, typer.Option(min=1, help="candidates of a Score call")] = 256,
    newest: Annotated[int, typer.Option(min=0, help="events of a read; 0 for all")] = 0,
    timeout: Annotated[float, typer.Option(min=0.001, help="deadline of a call, in seconds")] = 5.0,
    connections: Annotated[int, typer.Option(min=1, help="connections, used in turn")] = 4,
    seed: Annotated[int, typer.Option(min=0, help="seed of the times, the users and the candidates")] = 0,
    percentiles: Annotated[
        Path | None,
        typer.Option(help="directory for the whole distributions, as HdrHistogram files", show_default=False),
    ] = None,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    address: AddressOption = None,
    as_json: JsonOption = False,
) -> None:
    """Generate load on a node: reads and scores.

    It is an open loop: calls become due at a rate that does not depend on the node's answers. The latency of a call
    counts from when it was due, so a stall counts for every call that it delays. Calls are not retried. Users and
    candidates come from the data directory; the node may be running.
    """
    from lifeline.core.security import CallSecurity
    from lifeline.ops.load import LoadPlan, Population, run_load
    from lifeline.ops.offline import open_partitions

    output = Output(as_json=as_json)
    settings = load_config(config, node__data_dir=data_dir, node__grpc_address=address).settings
    plan = LoadPlan(
        rate=rate,
        seconds=seconds,
        score_share=scores,
        candidates=candidates,
        newest=newest,
        timeout_s=timeout,
        connections=connections,
        seed=seed,
    )
    with open_partitions(settings) as stores:
        population = Population.of_stores(stores)
    output.note(f"{len(population.users):,} users, {len(population.items):,} items")
    result = run_load(plan, population, settings.node.grpc_address, CallSecurity.of(settings.security))
    if percentiles is not None:
        percentiles.mkdir(parents=True, exist_ok=True)
        for kind, answers in result.kinds.items():
            with (percentiles / f"{kind}.hgrm").open("wb") as file:
                # The histogram counts microseconds, the file milliseconds.
                answers.answered.output_percentile_distribution(file, 1_000)
    output.show(text=lambda: _text(result), document=result.as_json)


def _text(result: "LoadResult") -> list[Part]:
    plan = result.plan
    rows = []
    for kind, answers in result.kinds.items():
        rows.append((kind, "answered", *_cells(answers.answered)))
        if answers.codes:
            codes = ", ".join(f"{code} {count:,}" for code, count in answers.codes.most_common())
            rows.append((kind, codes, *_cells(answers.failed)))
    title = f"{plan.rate:g} calls/s for {plan.seconds:g} s: {result.answered_per_s:,.1f} answered/s"
    late_ms = result.late.get_value_at_percentile(99) / 1_000
    remedy = ": this process is too slow for the rate; start several" if late_ms > _LATE_MS else ""
    return [
        Table(title, ("call", "", "calls>", "p50 ms>", "p90>", "p99>", "p99.9>", "max>"), rows),
        f"99 % of the calls were sent at most {late_ms:.1f} ms late{remedy}",
    ]


def _cells(histogram: "HdrHistogram") -> tuple[str, ...]:
    from lifeline.ops.load import percentiles_ms

    percentiles = percentiles_ms(histogram)
    return (f"{histogram.get_total_count():,}", *(f"{value:,.1f}" for value in percentiles.values()))
