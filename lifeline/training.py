"""Training a model on what a node has stored."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing

from lifeline.config import Settings
from lifeline.paths import items_dir
from lifeline.stored import opened
from scorer import weights
from scorer.settings import TrainSettings
from scorer.train import train
from scorer.trainer import Step
from scorer.weights import Manifest
from store.actions import Kind
from store.embeddings import EmbeddingFollower
from store.reader import SequenceReader
from store.sequence import Column, Sequence, SequenceQuery


def train_from_store(
    settings: Settings, training: TrainSettings, tell: Callable[[Step], None] = lambda _: None
) -> Manifest:
    """Train on every user of the data directory, save a new version, and return its manifest.

    A running node may hold the state: it is read as it is now. Raises StoreError, TrainingDataError.
    """
    trained = train(_histories(settings), settings.vocabulary, training, tell=tell)
    return weights.save(
        settings.scorer.models_dir,
        settings.scorer.model,
        trained.model,
        settings.vocabulary,
        data=trained.data,
        metrics=trained.metrics,
    )


def _histories(settings: Settings) -> Iterator[Mapping[Kind, Sequence]]:
    query = SequenceQuery(kinds=tuple(Kind), columns=Column.ALL)
    with opened(settings) as stores, closing(EmbeddingFollower.open(items_dir(settings.node.data_dir))) as embeddings:
        for store in stores:
            reader = SequenceReader(store, embeddings)
            for user in store.users():
                yield reader.read(user, query).sequences
