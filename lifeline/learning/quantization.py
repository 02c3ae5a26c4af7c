"""Quantization: measure what a version of the model loses at lower precision, on requests from stored histories."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lifeline.config import Settings
from lifeline.learning.training import histories
from lifeline.scorer import weights
from lifeline.scorer.config import ModelConfig
from lifeline.scorer.evaluate.precision import (
    BFLOAT16,
    INT8,
    MIN_INT8_SHARE,
    Agreement,
    Bars,
    PrecisionMeasurement,
    measure_precision,
)
from lifeline.scorer.feature_snapshot import FeatureSnapshot
from lifeline.scorer.settings import TrainSettings
from lifeline.scorer.train.corpus import Corpus
from lifeline.scorer.train.examples import Outcome
from lifeline.scorer.train.split import split_requests
from lifeline.scorer.weights import Manifest, MeasuredPrecision

HEADING = "## Precision"


class VersionMeasurement(NamedTuple):
    """The measurement of one version."""

    manifest: Manifest
    precision: PrecisionMeasurement
    candidates: int
    directory: Path


def measure_version(
    settings: Settings, version: str | None, training: TrainSettings, progress: Callable[[str], None]
) -> VersionMeasurement:
    """Measure a version, or the newest, on held-out requests, and write the result beside it, for nodes to follow.

    Raises StoreError, ScorerError.
    """
    scorer = settings.scorer.model_copy(update={"version": version})
    # An earlier measurement may be damaged, and this one replaces it.
    loaded = weights.load(scorer, settings.vocabulary, measured=False)
    manifest = loaded.manifest
    progress("reading the histories")
    outcomes = _outcomes(settings, training, manifest.config)
    found = measure_precision(loaded.model, outcomes, progress)
    directory = scorer.models_dir / manifest.name / manifest.version
    weights.save_precision(
        directory,
        MeasuredPrecision(
            weights_sha256=manifest.weights_sha256,
            requests=found.bfloat16.requests,
            bfloat16_accepted=found.by_kernels and found.bfloat16.reaches(BFLOAT16),
            int8_accepted=found.int8_by_kernels is not None and found.int8_by_kernels.reaches(INT8),
            calibration_sha256="0" * 64,
            measures={
                name: {key: float(value) for key, value in agreement._asdict().items()}
                for name, agreement in (
                    ("bfloat16", found.bfloat16),
                    ("int8", found.int8_by_kernels),
                    ("all_int8", found.int8),
                    ("mix", found.mixed),
                )
                if agreement is not None
            },
        ),
        found.calibration,
    )
    candidates = max(len(outcome.snapshot.item_id) for outcome in outcomes)
    return VersionMeasurement(manifest, found, candidates, directory)


def report(measured: VersionMeasurement, command: str) -> str:
    """Return the section of a Markdown report."""
    found = measured.precision
    by = "the kernels" if found.by_kernels else "PyTorch, with operands rounded"
    what = (
        f"{measured.manifest.name}/{measured.manifest.version} on {found.bfloat16.requests:,} held-out requests of up "
        f"to {measured.candidates} candidates, each compared with itself in float32. bfloat16 by {by}; int8 "
        "where nothing else is said as `scorer/int8.py` computes it (a scale for each output channel of weights, "
        "activations calibrated on 64 of the requests). Made by"
    )
    each = (
        "One product in int8, all others in bfloat16, on 100 of the requests; the one that costs most for what it "
        "gains first:"
    )
    own = []
    if found.int8_by_kernels is not None:
        own.append(_line("int8 by the kernels: all but the read-out, which is bfloat16", found.int8_by_kernels, INT8))
    if found.mixed is not None and len(found.mix) < len(found.sensitivities):
        mix = f"int8 in {', '.join(sorted(map(str, found.mix)))}; the rest bfloat16"
        outcome = [_line(mix, found.mixed, INT8)]
    elif found.mixed is not None:
        outcome = []
    else:
        none = f"No mix with at least {MIN_INT8_SHARE:.0%} of the multiplications in int8 is accepted."
        outcome = ["", none]
    lines = [
        *(HEADING, "", what, "", f"    {command}", ""),
        "| precision | same top 3 | Kendall tau | HIT@3 | AUC | largest difference of a probability | accepted |",
        "|---|---:|---:|---:|---:|---:|---|",
        _row("the bar of bfloat16", BFLOAT16),
        _line("bfloat16", found.bfloat16, BFLOAT16),
        _row("the bar of int8", INT8),
        *own,
        _line("int8, all products", found.int8, INT8),
        *outcome,
        *("", each, ""),
        "| product | of all multiplications | same top 3 | Kendall tau |",
        "|---|---:|---:|---:|",
        *(
            f"| {sensitivity.product} | {sensitivity.operations:.1%} | {sensitivity.agreement.same_top:.3f} | "
            f"{sensitivity.agreement.tau:.4f} |"
            for sensitivity in found.sensitivities
        ),
        "",
    ]
    return "\n".join(lines)


def write_report(path: Path, section: str) -> None:
    """Write the section into a Markdown file: it replaces an earlier one, or is appended."""
    text = path.read_text() if path.exists() else ""
    before, found, after = text.partition(f"{HEADING}\n")
    following = after[after.index("\n## ") + 1 :] if found and "\n## " in after else ""
    separator = "\n" if before and not before.endswith("\n\n") else ""
    path.write_text(f"{before}{separator}{section}{f'{chr(10)}{following}' if following else ''}")


def _outcomes(settings: Settings, training: TrainSettings, config: ModelConfig) -> list[Outcome]:
    corpus = Corpus.of(histories(settings), config)
    rng = np.random.default_rng([training.seed, 5])
    outcomes = []
    for row in split_requests(corpus, training).held_out.tolist():
        request = corpus.request(row, training, rng)
        selected, _ = FeatureSnapshot.of(request.history, request.item_id, request.embedding, request.context, config)
        outcomes.append(Outcome(request.user, selected, request.action_types, {}))
    return outcomes


def _row(name: str, bars: Bars) -> str:
    loss = f"-{bars.relative:.1%}"
    return f"| *{name}* | {bars.same_top:.3f} | {bars.tau:.4f} | {loss} | {loss} | | |"


def _line(name: str, agreement: Agreement, bars: Bars) -> str:
    return (
        f"| {name} | {agreement.same_top:.3f} | {agreement.tau:.4f} | {agreement.hit:+.2%} | {agreement.auc:+.2%} | "
        f"{agreement.difference:.4f} | {'yes' if agreement.reaches(bars) else 'no'} |"
    )
