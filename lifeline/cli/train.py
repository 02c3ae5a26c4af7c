"""The command that trains a model: `lifeline train`."""

import os
import time
from pathlib import Path
from typing import Annotated

import typer

from lifeline.cli.console import (
    BootstrapOption,
    ConfigOption,
    DataDirOption,
    JsonOption,
    complain,
    flags_of,
    load,
    out,
    print_json,
    progress,
    table,
)

_UNBOUNDED = 1_000_000


def train(
    seconds: Annotated[
        float | None, typer.Option(min=0.1, help="about how long; without --steps: 60", show_default=False)
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="optimiser steps instead: repeatable", show_default=False)
    ] = None,
    variant: Annotated[str, typer.Option(help="a row of the tables in docs/model-report.md")] = "v2",
    from_log: Annotated[
        bool, typer.Option("--from-log", help="train on requests that nodes have logged, not on visits in histories")
    ] = False,
    from_topic: Annotated[
        Path | None,
        typer.Option(
            help="train on the topics instead of a node's directory: they are first replayed into this one, which is "
            "gone on with the next time",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="of everything that is drawn")] = 0,
    until: Annotated[
        int | None, typer.Option(help="no event from this time on, ms since 1970", show_default=False)
    ] = None,
    patience: Annotated[
        int, typer.Option(min=0, help="validations without a better one before it stops; 0: never")
    ] = 0,
    validate_every: Annotated[int, typer.Option(min=1, help="steps between validations, and checkpoints")] = 200,
    hidden_hours: Annotated[
        float, typer.Option(min=0, help="random time window mask: hide actions of up to so long before a request")
    ] = 0.0,
    precision: Annotated[str, typer.Option(help="float32 or bfloat16, of the encoder's products")] = "float32",
    threads: Annotated[int, typer.Option(min=1, help="torch threads")] = 1,
    checkpoints: Annotated[
        Path | None, typer.Option(help="directory; the same command goes on from what is there", show_default=False)
    ] = None,
    curves: Annotated[
        Path | None, typer.Option(help="directory for curves that TensorBoard reads", show_default=False)
    ] = None,
    config: ConfigOption = None,
    bootstrap_servers: BootstrapOption = None,
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train a model on histories and save it as a new version for nodes to load at their start.

    The histories are those of a data directory, which a running node may hold; with --from-topic those of the topics.

    Several processes share the work: torchrun --nproc-per-node 2 -m lifeline train ...
    """
    from lifeline.learning.topic_copy import bring_up
    from lifeline.learning.training import Wanted, save_version, train_from_log, train_from_store
    from lifeline.scorer.settings import TrainSettings
    from lifeline.scorer.train.parallel import Group
    from lifeline.scorer.train.trainer import Step
    from lifeline.scorer.variants import NAMES

    if variant not in NAMES:
        complain(f"there is no variant {variant!r}: use one of {', '.join(NAMES)}")
        raise typer.Exit(2)
    if checkpoints is not None and steps is None:
        complain("a run by the clock cannot be resumed to the same result: give --steps as well")
        raise typer.Exit(2)
    if from_topic is not None and data_dir is not None:
        complain("--from-topic has a directory of its own: leave --data-dir out")
        raise typer.Exit(2)
    settings = load(config, kafka__bootstrap_servers=bootstrap_servers, node__data_dir=data_dir).settings
    training = TrainSettings.model_validate(
        {
            "seed": seed,
            "steps": steps or _UNBOUNDED,
            "max_seconds": seconds or (None if steps else 60.0),
            "patience": patience,
            "validate_every": validate_every,
            "hidden_hours": hidden_hours,
            "precision": precision,
            "threads": threads,
        }
    )
    started = time.monotonic()
    with progress() as bar:
        task = bar.add_task("training", total=None, note="reading the histories")

        def show(at: Step) -> None:
            note = f"loss {at.loss:.4f}, {at.examples_per_s:,.0f} examples/s"
            bar.update(task, completed=at.step, total=at.total, note=note)

        wanted = Wanted(training, variant, until, checkpoints, curves)
        with Group.joined() as group:
            if from_topic is not None:
                if group.rank == 0:
                    bring_up(
                        settings,
                        from_topic,
                        processes=os.cpu_count() or 1,
                        flags=flags_of(config, bootstrap_servers),
                        progress=lambda done, total: bar.update(task, completed=done, total=total, note="replaying"),
                    )
                group.wait()
                settings = settings.model_copy(
                    update={"node": settings.node.model_copy(update={"data_dir": from_topic})}
                )
            trained = (train_from_log if from_log else train_from_store)(settings, wanted, show, group)
    if group.rank > 0:
        # The first of the processes saves, and tells.
        return
    manifest = save_version(settings, trained)
    if as_json:
        print_json(manifest.model_dump(mode="json"))
        return
    place = settings.scorer.models_dir / manifest.name / manifest.version
    out.print(f"{place} trained in {time.monotonic() - started:.0f} s", highlight=False)
    rows = [(name, f"{value:.4f}") for name, value in manifest.metrics.items() if "/" not in name]
    out.print(table("Held-out requests, all later than training", ("measure", "value>"), rows))
