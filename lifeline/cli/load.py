"""The load generator: `lifeline load`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lifeline.cli import console
from lifeline.cli.console import AddressOption, ConfigOption, DataDirOption, JsonOption, err, out, print_json, table

if TYPE_CHECKING:
    from hdrh.histogram import HdrHistogram

    from lifeline.ops.load import LoadResult


def load(
    rate: Annotated[float, typer.Option(min=0.001, help="calls a second, on average")] = 50.0,
    seconds: Annotated[float, typer.Option(min=0.1, help="for how long calls become due")] = 10.0,
    scores: Annotated[float, typer.Option(min=0, max=1, help="share of the calls that are Score, not reads")] = 0.5,
    candidates: Annotated[int, typer.Option(min=1, help="candidates of a Score")] = 256,
    newest: Annotated[int, typer.Option(min=0, help="events of a read; 0 for all")] = 0,
    timeout: Annotated[float, typer.Option(min=0.001, help="seconds, the deadline of a call")] = 5.0,
    connections: Annotated[int, typer.Option(min=1, help="calls take turns on so many")] = 4,
    seed: Annotated[int, typer.Option(min=0, help="of the times, the users and the candidates")] = 0,
    percentiles: Annotated[
        Path | None,
        typer.Option(help="a directory for the whole distributions, as HdrHistogram writes them", show_default=False),
    ] = None,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    address: AddressOption = None,
    as_json: JsonOption = False,
) -> None:
    """Put a node under load: reads and scores of its users, in an open loop, at a rate that does not wait for it.

    Users and candidates come from the data directory, which the node may have open. A call's latency counts from when
    it was due, so that a stall is charged to every call it would have met. Nothing is tried twice.
    """
    from lifeline.core.security import CallSecurity
    from lifeline.ops.load import LoadPlan, Population, run_load
    from lifeline.ops.stored import opened

    settings = console.load(config, node__data_dir=data_dir, node__grpc_address=address).settings
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
    with opened(settings) as stores:
        population = Population.of_stores(stores)
    err.print(f"{len(population.users):,} users, {len(population.items):,} items", highlight=False)
    result = run_load(plan, population, settings.node.grpc_address, CallSecurity.of(settings.security))
    if percentiles is not None:
        percentiles.mkdir(parents=True, exist_ok=True)
        for kind, answers in result.kinds.items():
            with (percentiles / f"{kind}.hgrm").open("wb") as file:
                # In milliseconds, of microseconds.
                answers.answered.output_percentile_distribution(file, 1_000)
    if as_json:
        print_json(result.as_json())
    else:
        _show(result)


def _show(result: "LoadResult") -> None:
    plan = result.plan
    rows = []
    for kind, answers in result.kinds.items():
        rows.append((kind, "answered", *_cells(answers.answered)))
        if answers.codes:
            why = ", ".join(f"{code} {count:,}" for code, count in answers.codes.most_common())
            rows.append((kind, why, *_cells(answers.failed)))
    title = f"{plan.rate:g} calls/s for {plan.seconds:g} s: {result.answered_per_s:,.1f} answered/s"
    out.print(table(title, ("call", "", "calls>", "p50 ms>", "p90>", "p99>", "p99.9>", "max>"), rows))
    late_ms = result.late.get_value_at_percentile(99) / 1_000
    out.print(
        f"sent at most {late_ms:.1f} ms late in 99 % of the calls"
        + (": more than that is this process's own doing, so start several" if late_ms > 10 else ""),
        highlight=False,
    )


def _cells(histogram: "HdrHistogram") -> tuple[str, ...]:
    from lifeline.ops.load import percentiles_ms

    found = percentiles_ms(histogram)
    return (f"{histogram.get_total_count():,}", *(f"{value:,.1f}" for value in found.values()))
