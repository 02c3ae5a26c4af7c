"""Training a model on what a node has stored, or on what nodes have logged."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import NamedTuple

from lifeline.config import Settings
from lifeline.core.actions import Kind
from lifeline.core.sequence import Column, Sequence, SequenceQuery
from lifeline.learning.logged_outcomes import logged_outcomes
from lifeline.ops.readers import stored_readers
from lifeline.scorer import weights
from lifeline.scorer.allocator import keep_memory
from lifeline.scorer.config import ModelConfig, default_heads
from lifeline.scorer.settings import TrainSettings
from lifeline.scorer.train.model_training import Trained, train, train_on_outcomes
from lifeline.scorer.train.parallel import Group
from lifeline.scorer.train.trainer import ScalarWriter, Step
from lifeline.scorer.variants import variant
from lifeline.scorer.weights import Manifest


class Wanted(NamedTuple):
    """What is to be trained, and what is to be left behind beside it."""

    settings: TrainSettings
    variant: str = "v2"
    """A name of `scorer.variants`."""
    until_timestamp_ms: int | None = None
    """Events from then on are not read; none: all that is stored."""
    checkpoints: Path | None = None
    """Directory; a checkpoint that is there is gone on from."""
    curves: Path | None = None
    """Directory for files that TensorBoard reads."""


def train_from_store(
    settings: Settings, wanted: Wanted, tell: Callable[[Step], None] = lambda _: None, group: Group | None = None
) -> Trained:
    """Train on every user of the data directory, together with the other processes of `group`.

    A running node may hold the state: it is read as it is now. Raises StoreError, TrainingDataError, CheckpointError.
    """
    stored = histories(settings, wanted.until_timestamp_ms)
    with _training(settings, wanted, tell, group) as how:
        return train(
            stored,
            settings.vocabulary,
            wanted.settings,
            how.config,
            how.tell,
            checkpoints=wanted.checkpoints,
            curves=how.curves,
            group=group,
        )


def train_from_log(
    settings: Settings, wanted: Wanted, tell: Callable[[Step], None] = lambda _: None, group: Group | None = None
) -> Trained:
    """Train on the requests that nodes have logged, and on what their users did next, as the data directory has it.

    Raises StreamError, StoreError, SelectionRecordError, TrainingDataError, CheckpointError.
    """
    with _training(settings, wanted, tell, group) as how:
        return train_on_outcomes(
            logged_outcomes(settings, how.config, wanted.settings.label_window_ms),
            settings.vocabulary,
            wanted.settings,
            how.config,
            how.tell,
            checkpoints=wanted.checkpoints,
            curves=how.curves,
            group=group,
        )


def save_version(settings: Settings, trained: Trained) -> Manifest:
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
    with stored_readers(settings) as found:
        for store, reader in found:
            for user in store.users():
                yield reader.read(user, query).sequences


class _How(NamedTuple):
    config: ModelConfig
    tell: Callable[[Step], None]
    curves: ScalarWriter | None


@contextmanager
def _training(settings: Settings, wanted: Wanted, tell: Callable[[Step], None], group: Group | None) -> Iterator[_How]:
    """Give what is the same whatever is trained on; of several processes the first alone tells and draws curves."""
    keep_memory()
    first = group is None or group.rank == 0
    config = variant(wanted.variant, default_heads(settings.vocabulary))
    with ExitStack() as stack:
        curves = None
        if wanted.curves is not None and first:
            from tensorboardX import SummaryWriter  # noqa: PLC0415 - in the extra `train` alone

            curves = stack.enter_context(closing(SummaryWriter(str(wanted.curves))))
        yield _How(config, tell if first else lambda _: None, curves)
