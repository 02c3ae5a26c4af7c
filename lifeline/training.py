"""Training a model on what a node has stored."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

from lifeline.config import Settings
from lifeline.paths import items_dir
from lifeline.stored import opened
from scorer import weights
from scorer.allocator import keep_memory
from scorer.config import default_heads
from scorer.parallel import Group
from scorer.settings import TrainSettings
from scorer.train import Trained, train
from scorer.trainer import ScalarWriter, Step
from scorer.variants import variant
from scorer.weights import Manifest
from store.actions import Kind
from store.embeddings import EmbeddingFollower
from store.reader import SequenceReader
from store.sequence import Column, Sequence, SequenceQuery


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
    keep_memory()
    first = group is None or group.rank == 0
    with _curves(wanted.curves if first else None) as curves:
        return train(
            _histories(settings, wanted.until_timestamp_ms),
            settings.vocabulary,
            wanted.settings,
            variant(wanted.variant, default_heads(settings.vocabulary)),
            tell if first else lambda _: None,
            checkpoints=wanted.checkpoints,
            curves=curves,
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


def _histories(settings: Settings, until_ms: int | None) -> Iterator[Mapping[Kind, Sequence]]:
    query = SequenceQuery(kinds=tuple(Kind), columns=Column.ALL, to_timestamp_ms=until_ms)
    with opened(settings) as stores, closing(EmbeddingFollower.open(items_dir(settings.node.data_dir))) as embeddings:
        for store in stores:
            reader = SequenceReader(store, embeddings)
            for user in store.users():
                yield reader.read(user, query).sequences


@contextmanager
def _curves(directory: Path | None) -> Iterator[ScalarWriter | None]:
    if directory is None:
        yield None
        return
    from tensorboardX import SummaryWriter  # noqa: PLC0415 - in the extra `train` alone

    with closing(SummaryWriter(str(directory))) as writer:
        yield writer
