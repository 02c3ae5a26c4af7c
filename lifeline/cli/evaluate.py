"""`lifeline evaluate`: compares variants of the model."""

import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lifeline.cli.output import Output

if TYPE_CHECKING:
    from rich.progress import TaskID

_TASKS = ("simulator", "history", "movielens")


def evaluate(
    directory: Annotated[
        Path, typer.Argument(help="where the report goes: model-report.md, and model-report/ with its plots")
    ],
    tasks: Annotated[
        list[str] | None,
        typer.Option("--task", help="simulator, history or movielens; may be repeated", show_default="all"),
    ] = None,
    variants: Annotated[
        list[str] | None,
        typer.Option("--variant", help="a row of the tables; may be repeated", show_default="all"),
    ] = None,
    worlds: Annotated[
        list[int] | None,
        typer.Option("--world", help="a seed of the simulator; may be repeated", show_default="0 and 1"),
    ] = None,
    seeds: Annotated[
        list[int] | None,
        typer.Option("--seed", help="a seed of training; may be repeated", show_default="0 and 1"),
    ] = None,
    users: Annotated[int, typer.Option(min=20, help="users of a simulated world")] = 1_500,
    steps: Annotated[int, typer.Option(min=1, help="optimizer steps of a training run")] = 2_000,
    history_steps: Annotated[
        int | None,
        typer.Option(min=1, help="optimizer steps on real histories", show_default="--steps"),
    ] = None,
    learning_rate: Annotated[float, typer.Option(help="peak learning rate")] = 3e-3,
    patience: Annotated[
        int, typer.Option(min=0, help="stop after so many validations without improvement; 0: never")
    ] = 4,
    precision: Annotated[
        str, typer.Option(help="precision of the encoder's matrix products: float32 or bfloat16")
    ] = "bfloat16",
    validate_every: Annotated[int, typer.Option(min=1, help="steps between validations")] = 200,
    workers: Annotated[int, typer.Option(min=1, help="training runs at the same time, one thread each")] = 2,
    append: Annotated[bool, typer.Option("--append", help="add to an existing report")] = False,
    kept: Annotated[
        Path | None,
        typer.Option("--keep", help="directory for finished runs; the same command reuses them", show_default=False),
    ] = None,
) -> None:
    """Train and compare variants of the model; write a report.

    The report includes baselines that need no training. The history is that of the demo (LIFELINE_HISTORY names
    another); `make movielens` downloads MovieLens-100K. All tasks together take hours: with --keep, the same command
    resumes an interrupted evaluation.
    """
    from lifeline.learning.evaluation_tasks import evaluation_settings, history_task, ratings_task, simulated_task
    from lifeline.learning.model_report import write_report
    from lifeline.learning.movielens import read_movielens
    from lifeline.scorer.allocator import keep_memory
    from lifeline.scorer.evaluate.comparison import compare_variants
    from lifeline.scorer.evaluate.tasks import Task
    from lifeline.scorer.settings import TrainSettings
    from lifeline.scorer.train.trainer import Step
    from lifeline.scorer.variants import NAMES
    from lifeline.sources.history import demo_history

    output = Output()
    task_names, rows = tasks or list(_TASKS), variants or list(NAMES)
    for what, names, known in (("task", task_names, _TASKS), ("variant", rows, NAMES)):
        if unknown := [name for name in names if name not in known]:
            output.error(f"there is no {what} {unknown[0]!r}: use one of {', '.join(known)}")
            raise typer.Exit(2)
    keep_memory()

    def training(steps: int) -> TrainSettings:
        return evaluation_settings(
            steps,
            learning_rate=learning_rate,
            patience=patience,
            validate_every=validate_every,
            precision=precision,
            max_validated=1_000,
            max_held_out=4_000,
        )

    on_worlds, on_histories = training(steps), training(history_steps or steps)
    # Read first: if the ratings are missing, that is an error now and not after hours.
    ratings = read_movielens() if "movielens" in task_names else None
    comparisons = []
    started = time.monotonic()
    with output.progress() as bar:
        runs: list[tuple[Task, TrainSettings]] = []
        if "simulator" in task_names:
            runs += [(simulated_task(world, users, on_worlds), on_worlds) for world in worlds or (0, 1)]
        if "history" in task_names:
            runs.append((history_task(demo_history(), on_histories), on_histories))
        if ratings is not None:
            runs.append((ratings_task(ratings, on_histories), on_histories))
        for task, settings in runs:
            bars: dict[tuple[str, int], TaskID] = {}

            def show(name: str, seed: int, step: Step, bars: "dict[tuple[str, int], TaskID]" = bars) -> None:
                if (name, seed) not in bars:
                    bars[name, seed] = bar.add_task(f"{name}, seed {seed}", total=step.total, note="")
                note = f"loss {step.loss:.4f}, {step.examples_per_s:,.0f} examples/s"
                bar.update(bars[name, seed], completed=step.step, total=step.total, note=note)
                if step.step == step.total:
                    output.note(f"{time.strftime('%H:%M:%S')} {name}, seed {seed}: {note}")

            output.note(f"{time.strftime('%H:%M:%S')} {task.name}")
            comparisons.append(
                compare_variants(task, rows, seeds or (0, 1), settings, workers=workers, cache_dir=kept, on_step=show)
            )
            for task_bar in bars.values():
                bar.remove_task(task_bar)
    command = shlex.join(["lifeline", *sys.argv[1:]])
    path = write_report(directory, comparisons, command, append=append)
    output.print(f"{path} ({time.monotonic() - started:,.0f} s)")
