"""`lifeline simulate`: generates a world for training and evaluation."""

import time
from pathlib import Path
from typing import Annotated

import typer

from lifeline.cli.options import ConfigOption, JsonOption, load_config
from lifeline.cli.output import Output


def simulate(
    directory: Annotated[Path, typer.Argument(help="where to write it; must be empty or not exist yet")],
    users: Annotated[int, typer.Option(min=1, help="users, of about 8,800 actions and impressions each")] = 1_500,
    seed: Annotated[int, typer.Option(min=0, help="the same seed gives the same bytes")] = 0,
    days: Annotated[int, typer.Option(min=60, help="how long the histories are")] = 730,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Generate histories of simulated users with known preferences.

    It has users, items, actions, impressions and requests. `lifeline produce DIR/actions.parquet --items DIR/items.npz`
    publishes them; with LIFELINE_HISTORY=DIR the demo and the benchmarks use them. Needs pyarrow.
    """
    from lifeline.learning.simulated_world import write_world
    from lifeline.scorer.evaluate.simulator import Simulator, SimulatorSettings

    output = Output(as_json=as_json)
    # The last tenth is for tests, and the time before the first requests is history only.
    settings = SimulatorSettings(
        seed=seed, users=users, days=days, train_from_day=days * 200 // 730, test_from_day=days * 660 // 730
    )
    simulator = Simulator(settings, load_config(config).settings.vocabulary)
    started = time.monotonic()
    with output.progress() as bar:
        task = bar.add_task("simulating", total=users, note="")

        def show(done: int) -> None:
            bar.update(task, completed=done, note=f"{done / max(time.monotonic() - started, 1e-9):,.0f} users/s")

        written = write_world(simulator, directory, show)
    seconds = time.monotonic() - started
    counts = f"{written.users:,} users, {written.actions:,} actions and impressions on {written.items:,} items"
    output.show(
        text=lambda: [
            f"{counts}, and {written.requests:,} requests in {seconds:.1f} s: {directory}",
            f"Publish them: lifeline produce {directory}/actions.parquet --items {directory}/items.npz",
        ],
        document=lambda: written._asdict() | {"seconds": seconds, "directory": str(directory)},
    )
