"""The command that makes a simulated world: `lifeline simulate`."""

import time
from pathlib import Path
from typing import Annotated

import typer

from lifeline.cli.console import ConfigOption, JsonOption, load, out, print_json, progress


def simulate(
    directory: Annotated[Path, typer.Argument(help="where to write it; it must be empty, or not there yet")],
    users: Annotated[int, typer.Option(min=1, help="users, of about 8,800 actions and impressions each")] = 1_500,
    seed: Annotated[int, typer.Option(min=0, help="which world; the same seed gives the same bytes")] = 0,
    days: Annotated[int, typer.Option(min=60, help="how long the histories are")] = 730,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make users, items, actions, impressions and requests whose right answers are known.

    `lifeline produce DIR/actions.parquet --items DIR/items.npz` publishes them, and with LIFELINE_HISTORY=DIR demo and
    benchmarks run on them. Needs pyarrow.
    """
    from lifeline.learning.simulated import write
    from lifeline.scorer.evaluate.simulator import Simulator, SimulatorSettings

    # The last tenth is for tests, and what comes before the first requests is history alone.
    settings = SimulatorSettings(
        seed=seed, users=users, days=days, train_from_day=days * 200 // 730, test_from_day=days * 660 // 730
    )
    simulator = Simulator(settings, load(config).settings.vocabulary)
    started = time.monotonic()
    with progress() as bar:
        task = bar.add_task("simulating", total=users, note="")

        def show(done: int) -> None:
            bar.update(task, completed=done, note=f"{done / max(time.monotonic() - started, 1e-9):,.0f} users/s")

        written = write(simulator, directory, show)
    seconds = time.monotonic() - started
    if as_json:
        print_json(written._asdict() | {"seconds": seconds, "directory": str(directory)})
        return
    out.print(
        f"{written.users:,} users, {written.actions:,} actions and impressions on {written.items:,} items, and "
        f"{written.requests:,} requests in {seconds:.1f} s: {directory}",
        highlight=False,
        soft_wrap=True,
    )
    out.print(
        f"Publish them: lifeline produce {directory}/actions.parquet --items {directory}/items.npz",
        highlight=False,
        soft_wrap=True,
    )
