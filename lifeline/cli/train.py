"""`lifeline train`: trains a model."""

import os
import time
from pathlib import Path
from typing import Annotated

import typer

from lifeline.cli.options import (
    BootstrapOption,
    ConfigOption,
    DataDirOption,
    JsonOption,
    config_flags,
    load_config,
)
from lifeline.cli.output import Output, Table

_UNBOUNDED = 1_000_000
_DEFAULT_SECONDS = 60.0


def train(
    seconds: Annotated[
        float | None,
        typer.Option(min=0.1, help="approximate training time", show_default="60, without --steps"),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="train for so many optimizer steps instead of a time; makes the result reproducible",
            show_default=False,
        ),
    ] = None,
    variant: Annotated[str, typer.Option(help="a row of the tables in docs/model-report.md")] = "v2",
    from_log: Annotated[
        bool,
        typer.Option("--from-log", help="train on logged requests of nodes, not on visits in the histories"),
    ] = False,
    from_topic: Annotated[
        Path | None,
        typer.Option(
            help="train on the topics: first replay them into this directory, or resume the replay in it",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="seed of everything random")] = 0,
    until: Annotated[
        int | None, typer.Option(help="use only events before this time, ms since 1970", show_default=False)
    ] = None,
    patience: Annotated[
        int, typer.Option(min=0, help="stop after so many validations without improvement; 0: never")
    ] = 0,
    validate_every: Annotated[
        int, typer.Option(min=1, help="steps between validations, and between checkpoints")
    ] = 200,
    hidden_hours: Annotated[
        float,
        typer.Option(min=0, help="random time window mask: hide the actions of up to so many hours before a request"),
    ] = 0.0,
    precision: Annotated[
        str, typer.Option(help="precision of the encoder's matrix products: float32 or bfloat16")
    ] = "float32",
    threads: Annotated[int, typer.Option(min=1, help="threads of torch")] = 1,
    checkpoints: Annotated[
        Path | None,
        typer.Option(
            help="directory for checkpoints; the same command resumes from an existing one", show_default=False
        ),
    ] = None,
    curves: Annotated[Path | None, typer.Option(help="directory for TensorBoard curves", show_default=False)] = None,
    config: ConfigOption = None,
    bootstrap_servers: BootstrapOption = None,
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train a model on stored histories and save a new version.

    Nodes load the version when they start, or with `lifeline model use`. The histories are those of the data directory;
    the node may be running. With --from-topic they are those of the topics.

    Several processes can share the work: torchrun --nproc-per-node 2 -m lifeline train ...
    """
    from lifeline.learning.topic_copy import update_topic_copy
    from lifeline.learning.training import TrainingPlan, save_version, train_from_log, train_from_store
    from lifeline.scorer.settings import TrainSettings
    from lifeline.scorer.train.parallel import Group
    from lifeline.scorer.train.trainer import Step
    from lifeline.scorer.variants import NAMES

    output = Output(as_json=as_json)
    if variant not in NAMES:
        output.error(f"there is no variant {variant!r}: use one of {', '.join(NAMES)}")
        raise typer.Exit(2)
    if checkpoints is not None and steps is None:
        output.error("a run that is limited by time cannot resume to the same result: give --steps as well")
        raise typer.Exit(2)
    if from_topic is not None and data_dir is not None:
        output.error("--from-topic uses its own directory: leave --data-dir out")
        raise typer.Exit(2)
    settings = load_config(config, kafka__bootstrap_servers=bootstrap_servers, node__data_dir=data_dir).settings
    training = TrainSettings.model_validate(
        {
            "seed": seed,
            "steps": steps or _UNBOUNDED,
            "max_seconds": seconds or (None if steps else _DEFAULT_SECONDS),
            "patience": patience,
            "validate_every": validate_every,
            "hidden_hours": hidden_hours,
            "precision": precision,
            "threads": threads,
        }
    )
    started = time.monotonic()
    with output.progress() as bar:
        task = bar.add_task("training", total=None, note="reading the histories")

        def show(at: Step) -> None:
            note = f"loss {at.loss:.4f}, {at.examples_per_s:,.0f} examples/s"
            bar.update(task, completed=at.step, total=at.total, note=note)

        plan = TrainingPlan(training, variant, until, checkpoints, curves)
        with Group.join() as group:
            if from_topic is not None:
                if group.rank == 0:
                    update_topic_copy(
                        settings,
                        from_topic,
                        processes=os.cpu_count() or 1,
                        flags=config_flags(config, bootstrap_servers),
                        progress=lambda done, total: bar.update(task, completed=done, total=total, note="replaying"),
                    )
                group.wait()
                settings = settings.model_copy(
                    update={"node": settings.node.model_copy(update={"data_dir": from_topic})}
                )
            trained = (train_from_log if from_log else train_from_store)(settings, plan, show, group)
    if group.rank > 0:
        # The first process saves the version and prints it.
        return
    manifest = save_version(settings, trained)
    path = settings.scorer.models_dir / manifest.name / manifest.version
    # The name of a metric of a single head has a slash in it.
    rows = [(name, f"{value:.4f}") for name, value in manifest.metrics.items() if "/" not in name]
    output.show(
        text=lambda: [
            f"{path} trained in {time.monotonic() - started:.0f} s",
            Table("Held-out requests, all later than training", ("measure", "value>"), rows),
        ],
        document=lambda: manifest.model_dump(mode="json"),
    )
