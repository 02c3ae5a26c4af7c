"""Training a model on what a node has stored, or on what nodes have logged."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import NamedTuple

from lifeline.config import Settings
from lifeline.core.actions import Kind
from lifeline.core.sequence import Column, Sequence, SequenceQuery
from lifeline.learning.logged_outcomes import logged_outcomes
from lifeline.ops.offline import open_readers
from lifeline.scorer import weights
from lifeline.scorer.allocator import keep_memory
from lifeline.scorer.config import ModelConfig, default_heads
from lifeline.scorer.evaluate.evaluation import measures_of
from lifeline.scorer.settings import TrainSettings
from lifeline.scorer.train.model_training import RunOptions, TrainingResult, train, train_on_outcomes
from lifeline.scorer.train.parallel import Group
from lifeline.scorer.train.trainer import Step
from lifeline.scorer.variants import variant
from lifeline.scorer.weights import Manifest


class TrainingPlan(NamedTuple):
    """Which model to train, on what, and which files to write besides."""

    settings: TrainSettings
    variant: str = "v2"
    """A name of `scorer.variants`."""
    until_timestamp_ms: int | None = None
    """Events from then on are not read; None: every stored event."""
    checkpoints: Path | None = None
    """A directory; the run resumes from an existing checkpoint."""
    curves: Path | None = None
    """A directory for TensorBoard's files."""


def train_from_store(
    settings: Settings, plan: TrainingPlan, on_step: Callable[[Step], None] = lambda _: None, group: Group | None = None
) -> TrainingResult:
    """Train on every user of the data directory, together with the other processes of `group`.

    A running node may hold the state: it is read as it is now. Raises StoreError, TrainingDataError, CheckpointError.
    """
    stored = histories(settings, plan.until_timestamp_ms)
    with _training(settings, plan, on_step, group) as run:
        return train(stored, settings.vocabulary, plan.settings, run.options, run.config)


def train_from_log(
    settings: Settings, plan: TrainingPlan, on_step: Callable[[Step], None] = lambda _: None, group: Group | None = None
) -> TrainingResult:
    """Train on the requests that nodes have logged; the data directory has what their users did next.

    Raises StreamError, StoreError, SelectionRecordError, TrainingDataError, CheckpointError.
    """
    with _training(settings, plan, on_step, group) as run:
        return train_on_outcomes(
            logged_outcomes(settings, run.config, plan.settings.label_window_ms),
            settings.vocabulary,
            plan.settings,
            run.options,
            run.config,
        )


def save_version(settings: Settings, trained: TrainingResult) -> Manifest:
    """Save a new version for nodes to load, and return its manifest."""
    return weights.save(
        settings.scorer.models_dir,
        settings.scorer.model,
        trained.model,
        settings.vocabulary,
        data=trained.data,
        metrics=trained.metrics,
    )


def histories(settings: Settings, until_ms: int | None = None) -> Iterator[Mapping[Kind, Sequence]]:
    """Yield the sequences of every user of the data directory, with all columns; raises StoreError."""
    query = SequenceQuery(kinds=tuple(Kind), columns=Column.ALL, to_timestamp_ms=until_ms)
    with open_readers(settings) as readers:
        for partition, reader in readers:
            for user in partition.users():
                yield reader.read(user, query).sequences


class _Run(NamedTuple):
    config: ModelConfig
    options: RunOptions


@contextmanager
def _training(
    settings: Settings, plan: TrainingPlan, on_step: Callable[[Step], None], group: Group | None
) -> Iterator[_Run]:
    """Give what a run needs whatever the data is; of several processes only the first tells and writes curves."""
    keep_memory()
    first = group is None or group.rank == 0
    config = variant(plan.variant, default_heads(settings.vocabulary))
    with ExitStack() as stack:
        curves = None
        if plan.curves is not None and first:
            from tensorboardX import SummaryWriter  # noqa: PLC0415 - in the extra `train` alone

            curves = stack.enter_context(closing(SummaryWriter(str(plan.curves))))
        on_step = on_step if first else lambda _: None
        yield _Run(config, RunOptions(measures_of, on_step, plan.checkpoints, curves, group))
