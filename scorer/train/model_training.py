"""Training a model on histories, or on logged requests, and measuring it on requests later than all training.

The newest share of the requests is held out, after a gap, and never trained on. The requests of some users form the
early-stopping set. The caller passes the measure: training does not import `scorer.evaluate`, which imports it.
Popularity and last touch, the two baselines, are counted from the same data.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lifeline.core.actions import Kind
from lifeline.core.sequence import Sequence
from lifeline.core.vocabulary import Role, Vocabulary
from lifeline.scorer import features
from lifeline.scorer.config import ModelConfig, default_heads
from lifeline.scorer.errors import TrainingDataError
from lifeline.scorer.model import TransAct
from lifeline.scorer.settings import TrainSettings
from lifeline.scorer.train.checkpoint import Progress
from lifeline.scorer.train.corpus import Corpus
from lifeline.scorer.train.examples import CorpusSource, ExampleSet, Outcome
from lifeline.scorer.train.parallel import Group
from lifeline.scorer.train.request import Request
from lifeline.scorer.train.split import split_by_time, split_requests
from lifeline.scorer.train.trainer import RunFiles, ScalarWriter, Step, TrainingData, fit, seed_torch
from lifeline.scorer.weights import DataRange

Measure = Callable[[TransAct, ExampleSet], dict[str, float]]
"""Measures a model on held-out examples: `scorer.evaluate.evaluation.measures_of`."""


class RunOptions(NamedTuple):
    """How a run executes; none of it changes the weights."""

    measure: Measure
    on_step: Callable[[Step], None] = lambda _: None
    """Called after every step."""
    checkpoints: Path | None = None
    """A directory: the run resumes from its checkpoint, and writes the next ones there."""
    curves: ScalarWriter | None = None
    group: Group | None = None
    """The processes that train together."""


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """A trained model, and how it was trained."""

    model: TransAct
    """In evaluation mode."""
    metrics: dict[str, float]
    """On the held-out requests, and how many requests of each part there were."""
    data: DataRange
    """The oldest and the newest explicit token of the histories."""
    progress: Progress


def train(
    histories: Iterable[Mapping[Kind, Sequence]],
    vocabulary: Vocabulary,
    settings: TrainSettings,
    options: RunOptions,
    config: ModelConfig | None = None,
) -> TrainingResult:
    """Train a model on users' sequences, read with all columns, and measure it.

    Without `config`: the published model with `default_heads`. Raises TrainingDataError where the histories give too
    few requests, and CheckpointError.
    """
    config = config or ModelConfig(heads=default_heads(vocabulary))
    corpus = Corpus.of(histories, config)
    split = split_requests(corpus, settings)
    with seed_torch(settings):
        model = TransAct(config)
        validation = None
        if len(split.validation):
            rngs = (np.random.default_rng([settings.seed, 4, int(row)]) for row in split.validation)
            requests = (
                corpus.request(int(row), settings, rng) for row, rng in zip(split.validation, rngs, strict=False)
            )
            validation = ExampleSet.of(requests, config)
        training = CorpusSource(corpus, split.training, config, settings)
        data = TrainingData(training, validation, vocabulary.ids_with_role(Role.POSITIVE))
        tokens = corpus.explicit
        run = _run_of((tokens.timestamp_ms, tokens.item_id, tokens.action_types), settings, config)
        files = RunFiles(options.checkpoints, run, options.curves)
        progress = fit(model, data, settings, on_step=options.on_step, files=files, group=options.group)
        rng = np.random.default_rng([settings.seed, 3])
        until_ms = int(corpus.timestamp_ms[split.training[-1]])
        held_out = ExampleSet.of(
            (_with_baselines(corpus, corpus.request(int(row), settings, rng), until_ms) for row in split.held_out),
            config,
        )
        metrics = options.measure(model, held_out)
    times = corpus.explicit.timestamp_ms
    counts = {"train_requests": float(len(split.training)), "held_out_requests": float(len(split.held_out))}
    data_range = DataRange(from_timestamp_ms=times.min(), to_timestamp_ms=times.max())
    return TrainingResult(model, metrics | counts, data_range, progress)


def train_on_outcomes(
    outcomes: Iterable[Outcome],
    vocabulary: Vocabulary,
    settings: TrainSettings,
    options: RunOptions,
    config: ModelConfig,
) -> TrainingResult:
    """Train a model on logged requests with a known outcome: tokens were selected when they were served.

    They are split like those of histories. Raises TrainingDataError where there are too few, and CheckpointError.
    """
    ordered = sorted(outcomes, key=lambda outcome: (outcome.snapshot.context.timestamp_ms, outcome.user))
    times = np.array([outcome.snapshot.context.timestamp_ms for outcome in ordered], np.int64)
    users = np.array([outcome.user for outcome in ordered], np.int64)
    split = split_by_time(np.arange(len(ordered)), times, users, settings)
    if len(split.training) == 0:
        raise TrainingDataError(
            f"{len(ordered)} logged requests are too few: log a larger share (scorer.log_share), or wait for more"
        )

    def examples(rows: NDArray[np.int64]) -> ExampleSet:
        return ExampleSet.of_outcomes(ordered[row] for row in rows.tolist())

    with seed_torch(settings):
        model = TransAct(config)
        training = examples(split.training)
        validation = examples(split.validation) if len(split.validation) else None
        data = TrainingData(training, validation, vocabulary.ids_with_role(Role.POSITIVE))
        run = _run_of((times, training.item_id, training.action_types), settings, config)
        files = RunFiles(options.checkpoints, run, options.curves)
        progress = fit(model, data, settings, on_step=options.on_step, files=files, group=options.group)
        metrics = options.measure(model, examples(split.held_out))
    counts = {"train_requests": float(len(split.training)), "held_out_requests": float(len(split.held_out))}
    data_range = DataRange(from_timestamp_ms=int(times[0]), to_timestamp_ms=int(times[-1]))
    return TrainingResult(model, metrics | counts, data_range, progress)


def _run_of(columns: Iterable[NDArray[np.generic]], settings: TrainSettings, config: ModelConfig) -> str:
    """Return the identity of a run: with another one the weights would differ."""
    digest = hashlib.sha256(settings.model_dump_json().encode())
    digest.update(config.model_dump_json().encode())
    for column in columns:
        digest.update(np.ascontiguousarray(column).data)
    return digest.hexdigest()


def _with_baselines(corpus: Corpus, request: Request, until_ms: int) -> Request:
    """Return a request with two baseline rankings: popularity up to a time, and the user's last touch."""
    touched = features.last_touch(request.history.explicit, request.item_id).astype(np.float32)
    rankings = {"popularity": corpus.popularity(request.item_id, until_ms), "last_touch": touched}
    return replace(request, rankings=rankings)
