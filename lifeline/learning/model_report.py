"""The report of an evaluation: a Markdown file with tables, and plots beside it."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lifeline.scorer.config import Head
from lifeline.scorer.evaluate.breakdown import dormancy_days, history_length, lift_by
from lifeline.scorer.evaluate.comparison import Comparison
from lifeline.scorer.evaluate.evaluation import TOP, Difference, reliability
from lifeline.scorer.settings import TrainSettings
from lifeline.scorer.train.request import labels

_OF_WEIGHT = 0.5
"""The least absolute utility of a head that is compared."""
_USERS = 20
"""The least number of users with a figure for a comparison."""

PUBLISHED_LIFT = {
    "bst": ("+6.04 %", "-0.49 % n.s."),
    "v1": ("+7.74 %", "-6.86 %"),
    "v1_nal_in_batch": ("+8.41 %", "-8.63 %"),
    "v1_nal_impressions": ("+8.92 %", "-9.08 %"),
    "v2": ("+13.31 %", "-11.25 %"),
}
"""HIT@3 of repin and hide above the ranker without a sequence, as TransActV2's authors print it."""
PAIRS = (
    ("v2", "none"),
    ("v2", "v1"),
    ("v2", "v2_without_nal"),
    ("v1", "none"),
    ("v1", "hand_real_time"),
    ("v1_matching", "v1"),
    ("v1_matching", "hand_real_time"),
    ("v2", "v1_matching"),
    ("v2_matching", "v1_matching"),
    ("v1_nal_in_batch", "v1"),
    ("v1_nal_impressions", "v1"),
    ("v2", "v2_without_impressions"),
    ("v2_matching", "v2"),
    ("best", "v2"),
    ("best", "hand"),
    ("best", "statistics"),
    ("best", "best_without_gate"),
    ("statistics", "hand"),
    ("statistics", "mean_of_top_64"),
    ("statistics", "v2"),
    ("best", "mean_of_top_64"),
    ("best", "last_touch"),
    ("best", "best_without_nal"),
)
"""The pairs of models that are compared, if both were run."""


_HEAD = (
    "# The model, measured",
    "",
    f"HIT@{TOP} of a head is the share of a request's true actions of that kind among the {TOP} candidates with the",
    "highest score (the sum over heads of utility times probability). For hide, lower is better. AUC, log-loss and",
    "calibration error are of a head's own probability. Figures of models are means over the training seeds.",
    "Differences are on the same requests, by a paired bootstrap over users, seed by seed; intervals hold 95 %.",
    "Training and test are apart in time, with a gap. Early stopping goes by users that training never sees.",
)


def write_report(directory: Path, comparisons: Sequence[Comparison], command: str, *, append: bool = False) -> Path:
    """Write `model-report.md`, and its plots into `model-report/`; returns the path of the first. Needs matplotlib.

    With `append`, the tasks are added to those of the existing report.
    """
    plots = directory / "model-report"
    plots.mkdir(parents=True, exist_ok=True)
    path = directory / "model-report.md"
    lines = [path.read_text()] if append and path.exists() else [*_HEAD, ""]
    for comparison in comparisons:
        lines += _section(comparison, command)
        lines += _plots(comparison, plots, re.sub(r"[^a-z0-9]+", "-", comparison.task.lower()))
    path.write_text("\n".join(lines).rstrip() + "\n")
    return path


def main_head(comparison: Comparison) -> Head:
    """Return the head that single-head figures are about: click, or else the positive head with the most actions."""
    wanted = [head for head in comparison.heads if head.utility > 0]
    done = labels(comparison.test.action_types, comparison.heads).sum(axis=0)
    count = {head.name: done[place] for place, head in enumerate(comparison.heads)}
    return next((head for head in wanted if head.name == "click"), max(wanted, key=lambda head: count[head.name]))


def _settings_text(settings: TrainSettings) -> str:
    drawn = settings.candidates_drawn or "all"
    return (
        f"{settings.steps:,} steps of {settings.requests_per_step} requests x {drawn} candidates, AdamW, one cycle to "
        f"{settings.learning_rate:g} with {settings.warm_up:.0%} warm-up, {settings.precision} products, validation "
        f"every {settings.validate_every} steps, the best weights kept"
    )


def _section(comparison: Comparison, command: str) -> list[str]:
    training, stopping, test = comparison.requests
    seeds = ", ".join(str(seed) for seed in sorted({run.seed for run in comparison.runs}))
    lines = [
        f"## {comparison.task[0].upper()}{comparison.task[1:]}",
        "",
        f"{training:,} training requests, {stopping:,} for early stopping, {test:,} for the figures; seeds {seeds}.",
        f"Training: {_settings_text(comparison.settings)}.",
        "Made by",
        "",
        f"    {command}",
        "",
        *_all_rows(comparison),
    ]
    if "none" in comparison.names:
        lines += _published_rows(comparison)
    lines += _differences(comparison)
    if "oracle" in comparison.rules:
        lines += _gaps(comparison)
    return lines


def _all_rows(comparison: Comparison) -> list[str]:
    main = main_head(comparison)
    hits = [f"hit_at_{TOP}/{head.name}" for head in comparison.heads]
    columns = [f"HIT@{TOP} {head.name}" for head in comparison.heads]
    columns += [f"AUC {main.name}", f"log-loss {main.name}", "calibration error", "examples/s"]
    rows = [[f"*{name}*", *_means(comparison, name, hits), "", "", "", ""] for name in comparison.rules]
    for name in comparison.names:
        runs = comparison.of(name)
        error = np.mean(
            [reliability(comparison.test, run.evaluation, comparison.heads, main.name).error for run in runs]
        )
        rate = np.mean([run.examples_per_s for run in runs])
        own = _means(comparison, name, [f"auc/{main.name}", f"log_loss/{main.name}"])
        rows.append([name, *_means(comparison, name, hits), *own, f"{error:.4f}", f"{rate:,.0f}"])
    return _markdown(["row", *columns], rows)


def _published_rows(comparison: Comparison) -> list[str]:
    heads = {head.name for head in comparison.heads}
    names = [name for name in PUBLISHED_LIFT if name in comparison.names]
    if not {"repin", "hide"} <= heads or not names:
        return []
    rows = []
    for name in names:
        repin, hide = (
            comparison.mean(name, f"hit_at_{TOP}/{head}") / comparison.mean("none", f"hit_at_{TOP}/{head}") - 1
            for head in ("repin", "hide")
        )
        rows.append([name, PUBLISHED_LIFT[name][0], f"{repin:+.2%}", PUBLISHED_LIFT[name][1], f"{hide:+.2%}"])
    table = _markdown(["row", "repin, published", "repin, here", "hide, published", "hide, here"], rows)
    return ["The published table, relative to `none`, and the same rows here:", "", *table]


def _differences(comparison: Comparison) -> list[str]:
    known = comparison.rules.keys() | set(comparison.names)
    first = comparison.runs[0].evaluation
    heads = [
        head.name
        for head in comparison.heads
        if abs(head.utility) >= _OF_WEIGHT and first.users(f"hit_at_{TOP}/{head.name}") >= _USERS
    ]
    rows = []
    for ours, theirs in PAIRS:
        if {ours, theirs} <= known:
            found = [comparison.differences(ours, theirs, f"hit_at_{TOP}/{head}") for head in heads]
            rows.append([f"{ours} - {theirs}", *("<br>".join(map(_difference_text, of_head)) for of_head in found)])
    if not rows or not heads:
        return []
    return [f"Differences in HIT@{TOP}, one line for each training seed:", "", *_markdown(["", *heads], rows)]


def _gaps(comparison: Comparison) -> list[str]:
    heads = [head.name for head in comparison.heads if head.utility > 0]
    lines = []
    for base in (name for name in ("none", "none_without_last_touch") if name in comparison.names):
        rows = [
            [name, *(f"{comparison.gap_closed(name, f'hit_at_{TOP}/{head}', base=base):.2f}" for head in heads)]
            for name in comparison.names
            if name != base
        ]
        lines += [
            f"Share of the gap from `{base}` to the oracle that is closed:",
            "",
            *_markdown(["row", *heads], rows),
        ]
    return lines


def _difference_text(difference: Difference) -> str:
    return f"{difference.difference:+.4f} [{difference.low:+.4f}, {difference.high:+.4f}], p {difference.p:.3f}"


def _means(comparison: Comparison, name: str, measures: Sequence[str]) -> list[str]:
    found = [comparison.mean(name, measure) for measure in measures]
    # A measure is NaN if no user did the action.
    return ["" if np.isnan(value) else f"{value:.4f}" for value in found]


def _markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(columns)} |", "|---|" + "---:|" * (len(columns) - 1)]
    return [*lines, *(f"| {' | '.join(row)} |" for row in rows), ""]


def _plots(comparison: Comparison, directory: Path, prefix: str) -> list[str]:
    """Draw lifts by history length and dormancy, reliability, and training curves; return the lines that show them."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - in the extra `train` alone

    main = main_head(comparison)
    measure = f"hit_at_{TOP}/{main.name}"
    shown = [name for name in ("v1", "v1_matching", "v2", "statistics", "best") if name in comparison.names]
    figure = Figure(figsize=(11, 8), layout="constrained")
    by_length, by_dormancy, calibration, curves = figure.subplots(2, 2).ravel()
    if "none" in comparison.names:
        base = [run.evaluation for run in comparison.of("none")]
        for axes, column, name in (
            (by_length, history_length(comparison.test), "explicit tokens in the history"),
            (by_dormancy, dormancy_days(comparison.test), "days that the interest was asleep"),
        ):
            for place, variant in enumerate(shown):
                ours = [run.evaluation for run in comparison.of(variant)]
                middle, lift, error = lift_by(column, ours, base, measure)
                # One group for each quarter of the requests, labelled with the quarter's median.
                quarters = np.arange(len(middle))
                axes.errorbar(quarters + place / 20, lift, error, marker="o", capsize=3, label=variant)
                axes.set_xticks(quarters, [f"{each:,.0f}" for each in middle])
            axes.axhline(0, color="grey", linewidth=0.8)
            axes.set(xlabel=f"{name}: medians of quarters", ylabel=f"HIT@{TOP} {main.name} above none")
    for variant in shown:
        run = comparison.of(variant)[0]
        found = reliability(comparison.test, run.evaluation, comparison.heads, main.name)
        calibration.plot(found.predicted, found.observed, marker="o", label=variant)
        steps = [step for step, *_ in run.progress.curve]
        curves.plot(steps, [loss for *_, loss in run.progress.curve], label=variant)
    most = calibration.get_xlim()[1]
    calibration.plot([0, most], [0, most], color="grey", linewidth=0.8)
    calibration.set(xlabel=f"predicted probability of {main.name}", ylabel="observed share")
    curves.set(xlabel="step", ylabel="validation loss")
    for axes in (by_length, by_dormancy, calibration, curves):
        if axes.get_legend_handles_labels()[0]:
            axes.legend()
    figure.savefig(directory / f"{prefix}.png", dpi=90, metadata={"Software": None})
    return [f"![Lifts by history length and dormancy, reliability, validation loss](model-report/{prefix}.png)", ""]
