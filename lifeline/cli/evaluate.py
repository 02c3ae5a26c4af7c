"""The command that judges models: `lifeline evaluate`."""

import shlex
import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import TaskID

from lifeline.cli.console import complain, err, out, progress

_TASKS = ("simulator", "history", "movielens")


def evaluate(
    directory: Annotated[
        Path, typer.Argument(help="where the report goes: model-report.md, and model-report/ with its plots")
    ],
    tasks: Annotated[
        list[str] | None, typer.Option("--task", help="simulator, history or movielens; without: all")
    ] = None,
    variants: Annotated[
        list[str] | None, typer.Option("--variant", help="rows of the table; without: all", show_default=False)
    ] = None,
    worlds: Annotated[list[int] | None, typer.Option("--world", help="the simulator's seeds; without: 0 and 1")] = None,
    seeds: Annotated[list[int] | None, typer.Option("--seed", help="seeds of training; without: 0 and 1")] = None,
    users: Annotated[int, typer.Option(min=20, help="users of a world")] = 1_500,
    steps: Annotated[int, typer.Option(min=1, help="optimiser steps of a training")] = 2_000,
    history_steps: Annotated[
        int | None, typer.Option(min=1, help="the same for real histories; without: as many", show_default=False)
    ] = None,
    learning_rate: Annotated[float, typer.Option(help="its peak")] = 3e-3,
    patience: Annotated[
        int, typer.Option(min=0, help="validations without a better one before it stops; 0: never")
    ] = 4,
    precision: Annotated[str, typer.Option(help="float32 or bfloat16, of the encoder's products")] = "bfloat16",
    validate_every: Annotated[int, typer.Option(min=1, help="steps between validations")] = 200,
    workers: Annotated[int, typer.Option(min=1, help="trainings at the same time, one thread each")] = 2,
    append: Annotated[bool, typer.Option("--append", help="behind the tasks of the report that is there")] = False,
    kept: Annotated[
        Path | None,
        typer.Option("--keep", help="where measured runs are kept, and taken from when the command is given again"),
    ] = None,
) -> None:
    """Train the rows of the model's tables, measure them beside rules that need no training, and write a report.

    The history is that of the demo (LIFELINE_HISTORY names another); MovieLens-100K is what `make movielens` got. All
    together take hours: with --keep, the same command goes on where it was ended.
    """
    from lifeline.learning.evaluation_tasks import evaluation_settings, of_history, of_ratings, simulated
    from lifeline.learning.model_report import write_report
    from lifeline.learning.movielens import read_movielens
    from lifeline.scorer.allocator import keep_memory
    from lifeline.scorer.evaluate.comparison import compare_variants
    from lifeline.scorer.evaluate.tasks import Task
    from lifeline.scorer.settings import TrainSettings
    from lifeline.scorer.train.trainer import Step
    from lifeline.scorer.variants import NAMES
    from lifeline.sources.history import demo_history

    chosen, rows = tasks or list(_TASKS), variants or list(NAMES)
    for what, given, known in (("task", chosen, _TASKS), ("variant", rows, NAMES)):
        if unknown := [name for name in given if name not in known]:
            complain(f"there is no {what} {unknown[0]!r}: use one of {', '.join(known)}")
            raise typer.Exit(2)
    keep_memory()

    def trained_for(most: int) -> TrainSettings:
        return evaluation_settings(
            most,
            learning_rate=learning_rate,
            patience=patience,
            validate_every=validate_every,
            precision=precision,
            max_validated=1_000,
            max_held_out=4_000,
        )

    settings, of_histories = trained_for(steps), trained_for(history_steps or steps)
    # What is not there is told before hours have gone by.
    ratings = read_movielens() if "movielens" in chosen else None
    comparisons = []
    started = time.monotonic()
    with progress() as bar:
        made: list[tuple[Task, TrainSettings]] = []
        if "simulator" in chosen:
            made += [(simulated(world, users, settings), settings) for world in worlds or (0, 1)]
        if "history" in chosen:
            made.append((of_history(demo_history(), of_histories), of_histories))
        if ratings is not None:
            made.append((of_ratings(ratings, of_histories), of_histories))
        for task, how in made:
            shown: dict[tuple[str, int], TaskID] = {}

            def tell(name: str, seed: int, at: Step, shown: dict[tuple[str, int], TaskID] = shown) -> None:
                if (name, seed) not in shown:
                    shown[name, seed] = bar.add_task(f"{name}, seed {seed}", total=at.total, note="")
                note = f"loss {at.loss:.4f}, {at.examples_per_s:,.0f} examples/s"
                bar.update(shown[name, seed], completed=at.step, total=at.total, note=note)
                if at.step == at.total:
                    err.print(f"{time.strftime('%H:%M:%S')} {name}, seed {seed}: {note}", highlight=False)

            err.print(f"{time.strftime('%H:%M:%S')} {task.name}", highlight=False)
            comparisons.append(
                compare_variants(task, rows, seeds or (0, 1), how, workers=workers, kept=kept, tell=tell)
            )
            for name in shown.values():
                bar.remove_task(name)
    command = shlex.join(["lifeline", *sys.argv[1:]])
    path = write_report(directory, comparisons, command, append=append)
    out.print(f"{path} ({time.monotonic() - started:,.0f} s)", highlight=False, soft_wrap=True)
