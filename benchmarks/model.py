"""The model: a short evaluation on the simulator and on a real history, and the speed of training.

One world of 300 users, one training seed and few steps: twenty minutes. `docs/model-report.md` has the full evaluation.
"""

import time
from collections.abc import Sequence

import numpy as np
import torch

from benchmarks.report import Bar, Report, Row
from lifeline.cli.console import err
from lifeline.learning.evaluation_tasks import evaluation_settings, history_task, simulated_task
from lifeline.scorer.allocator import keep_memory
from lifeline.scorer.evaluate.comparison import Comparison, compare_variants
from lifeline.scorer.evaluate.evaluation import TOP
from lifeline.scorer.evaluate.tasks import Task
from lifeline.scorer.inputs import Inputs
from lifeline.scorer.model import TransAct
from lifeline.scorer.settings import TrainSettings
from lifeline.scorer.train.examples import Draw, ExampleSet
from lifeline.scorer.train.trainer import seed_torch
from lifeline.scorer.variants import variant
from lifeline.sources.history import demo_history

USERS, STEPS, HISTORY_STEPS = 300, 600, 300
PAIRS, TIMED_STEPS = 256, 12
_MEASURED = {"max_validated": 300, "max_held_out": 1_000}
_ABOVE = Bar(">", 0.0)


def run(bootstrap_servers: str | None, parts: Sequence[str] = ()) -> Report:
    """Run all parts, or those in `parts`; no broker is needed."""
    del bootstrap_servers
    keep_memory()
    notes: list[str] = []
    rows: list[Row] = []
    for name in parts or PARTS:
        err.print(f"{time.strftime('%H:%M:%S')} {name}", highlight=False)
        rows += PARTS[name](notes)
    return Report("model", rows, tuple(notes))


def _simulator(notes: list[str]) -> list[Row]:
    settings = evaluation_settings(STEPS, **_MEASURED)
    task = simulated_task(0, USERS, settings)
    names = (
        "none",
        "none_without_last_touch",
        "v1",
        "v1_matching",
        "v2",
        "v2_without_nal",
        "hand_real_time",
        "hand",
        "statistics",
        "best",
    )
    comparison = _compare(task, names, settings, notes)
    click = f"hit_at_{TOP}/click"
    against_rule = _difference(comparison, "best", "mean_of_top_64", click, notes)
    trained_v1 = _difference(comparison, "v1_matching", "hand_real_time", click, notes)
    from_nothing = comparison.gap_closed("best", click, base="none_without_last_touch")
    return [
        Row("sim_v2_minus_none_click", _difference(comparison, "v2", "none", click, notes), "HIT@3", _ABOVE),
        Row("sim_v2_minus_v1_click", _difference(comparison, "v2", "v1", click, notes), "HIT@3", _ABOVE),
        Row("sim_trained_v1_minus_hand_real_time_click", trained_v1, "HIT@3"),
        Row(
            "sim_v2_minus_trained_v1_click", _difference(comparison, "v2", "v1_matching", click, notes), "HIT@3", _ABOVE
        ),
        Row("sim_best_minus_top_64_click", against_rule, "HIT@3", _ABOVE),
        Row("sim_best_minus_hand_click", _difference(comparison, "best", "hand", click, notes), "HIT@3", _ABOVE),
        Row("sim_best_minus_statistics_click", _difference(comparison, "best", "statistics", click, notes), "HIT@3"),
        Row("sim_gap_closed_click", comparison.gap_closed("best", click), "of 1", Bar(">=", 0.70)),
        Row("sim_gap_closed_without_last_touch_click", from_nothing, "of 1"),
        Row("sim_nal_click", _difference(comparison, "v2", "v2_without_nal", click, notes), "HIT@3", _ABOVE),
    ]


def _history(notes: list[str]) -> list[Row]:
    history = demo_history()
    notes.append(history.description)
    settings = evaluation_settings(HISTORY_STEPS, **_MEASURED)
    comparison = _compare(history_task(history, settings), ("none", "v1", "v2", "best"), settings, notes)
    measure = f"hit_at_{TOP}"
    (lower,) = comparison.differences("v2", "v1", measure)
    return [
        Row("rails_v1_minus_none", _difference(comparison, "v1", "none", measure, notes), "HIT@3", _ABOVE),
        Row("rails_v2_minus_v1_lower_limit", lower.low, "HIT@3", Bar(">", -0.015)),
        Row("rails_best_minus_recency", _difference(comparison, "best", "last_touch", measure, notes), "HIT@3", _ABOVE),
    ]


def _speed(notes: list[str]) -> list[Row]:
    """Measure forward and backward passes at length 192, on all cores."""
    settings = evaluation_settings(1, **_MEASURED)
    task = simulated_task(0, 20, settings)
    config = variant("v2", task.heads)
    examples = task.splits(config).training
    batch = _batch(examples, task)
    rows = []
    for precision in ("bfloat16", "float32"):
        with seed_torch(settings.model_copy(update={"threads": torch.get_num_threads()})):
            model = TransAct(config)
            model.use_bfloat16(enabled=precision == "bfloat16")
            seconds = []
            for _ in range(TIMED_STEPS):
                started = time.perf_counter()
                model.zero_grad()
                torch.autograd.backward(model(batch).square().mean())
                seconds.append(time.perf_counter() - started)
        per_s = len(batch.index) / float(np.median(seconds[2:]))
        bar = Bar(">=", 1_500) if precision == "bfloat16" else None
        rows.append(Row("train_examples_per_s" if bar else f"train_examples_per_s_{precision}", per_s, "pairs/s", bar))
    notes.append(
        f"training: {len(batch.index)} pairs of {batch.index.shape[1]} tokens, {torch.get_num_threads()} threads"
    )
    return rows


def _batch(examples: ExampleSet, task: Task) -> Inputs:
    rows = np.arange(min(PAIRS // 16, len(examples)))
    rngs = [np.random.default_rng(int(row)) for row in rows]
    return examples.batch(rows, rngs, Draw(task.heads, 16, ())).inputs


def _compare(task: Task, names: Sequence[str], settings: TrainSettings, notes: list[str]) -> Comparison:
    comparison = compare_variants(task, names, (0,), settings)
    training, _, test = comparison.requests
    notes.append(f"{comparison.task}: {settings.steps} steps over {training:,} requests, measured on {test:,}")
    return comparison


def _difference(comparison: Comparison, ours: str, theirs: str, measure: str, notes: list[str]) -> float:
    (result,) = comparison.differences(ours, theirs, measure)
    interval = f"[{result.low:+.4f}, {result.high:+.4f}]"
    notes.append(f"{ours} - {theirs}: {result.difference:+.4f} {interval}, p {result.p:.3f}")
    return result.difference


PARTS = {"speed": _speed, "simulator": _simulator, "history": _history}
