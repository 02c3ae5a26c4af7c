"""Training a model on histories, and its measure on requests that are later than all training.

The newest share of the requests is held out, after a gap, and never trained on; nor are the requests of some users, by
which training stops. Popularity and last touch, the two baselines, are counted from the same data.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from scorer import features
from scorer.checkpoint import Progress
from scorer.config import ModelConfig, default_heads
from scorer.corpus import Corpus
from scorer.errors import TrainingDataError
from scorer.evaluation import evaluate, ranked, summary
from scorer.examples import CorpusSource, ExampleSet
from scorer.model import TransAct
from scorer.parallel import Group
from scorer.request import Request
from scorer.settings import TrainSettings
from scorer.trainer import Data, Place, ScalarWriter, Step, fit, seeded
from scorer.weights import DataRange
from store.actions import Kind
from store.sequence import Sequence
from store.vocabulary import Role, Vocabulary


@dataclass(frozen=True, slots=True)
class Trained:
    """What training gives."""

    model: TransAct
    """In evaluation mode."""
    metrics: dict[str, float]
    """On the held-out requests, and how many requests of each part there were."""
    data: DataRange
    """The oldest and the newest explicit token of the histories."""
    progress: Progress


class Split(NamedTuple):
    """Requests of a corpus, by their numbers, oldest first."""

    training: NDArray[np.int64]
    validation: NDArray[np.int64]
    held_out: NDArray[np.int64]


def train(
    histories: Iterable[Mapping[Kind, Sequence]],
    vocabulary: Vocabulary,
    settings: TrainSettings,
    config: ModelConfig | None = None,
    tell: Callable[[Step], None] = lambda _: None,
    *,
    checkpoints: Path | None = None,
    curves: ScalarWriter | None = None,
    group: Group | None = None,
) -> Trained:
    """Train a model on users' sequences, read with all columns, and measure it.

    Without `config`: the published model with `default_heads`. With `checkpoints` a run that was interrupted is gone
    on from. Raises TrainingDataError where the histories give too few requests, and CheckpointError.
    """
    config = config or ModelConfig(heads=default_heads(vocabulary))
    corpus = Corpus.of(histories, config)
    split = split_requests(corpus, settings)
    with seeded(settings):
        model = TransAct(config)
        validation = None
        if len(split.validation):
            rngs = (np.random.default_rng([settings.seed, 4, int(row)]) for row in split.validation)
            requests = (
                corpus.request(int(row), settings, rng) for row, rng in zip(split.validation, rngs, strict=False)
            )
            validation = ExampleSet.of(requests, config)
        training = CorpusSource(corpus, split.training, config, settings)
        data = Data(training, validation, vocabulary.ids_with_role(Role.POSITIVE))
        place = Place(checkpoints, _run(corpus, settings, config), curves)
        progress = fit(model, data, settings, tell=tell, place=place, group=group)
        rng = np.random.default_rng([settings.seed, 3])
        until_ms = int(corpus.timestamp_ms[split.training[-1]])
        held_out = ExampleSet.of(
            (_with_baselines(corpus, corpus.request(int(row), settings, rng), until_ms) for row in split.held_out),
            config,
        )
        metrics = summary(evaluate(model, held_out))
        for name in ("popularity", "last_touch"):
            found = summary(ranked(held_out, held_out.rankings[name], config.heads))
            metrics |= {f"{name}_{measure}": value for measure, value in found.items()}
    times = corpus.explicit.timestamp_ms
    counts = {"train_requests": float(len(split.training)), "held_out_requests": float(len(split.held_out))}
    seen = DataRange(from_timestamp_ms=times.min(), to_timestamp_ms=times.max())
    return Trained(model, metrics | counts, seen, progress)


def _run(corpus: Corpus, settings: TrainSettings, config: ModelConfig) -> str:
    """Return what names a run: anything else would have other weights."""
    digest = hashlib.sha256(settings.model_dump_json().encode())
    digest.update(config.model_dump_json().encode())
    for column in (corpus.explicit.timestamp_ms, corpus.explicit.item_id, corpus.explicit.action_types):
        digest.update(np.ascontiguousarray(column).data)
    return digest.hexdigest()


def split_requests(corpus: Corpus, settings: TrainSettings) -> Split:
    """Return what to train on, to stop by, and to measure on; raises TrainingDataError for too little."""
    rows = corpus.usable(settings)
    cut = len(rows) - max(1, round(len(rows) * settings.held_out))
    held_out = rows[max(0, cut) :]
    before = rows[:0]
    if len(held_out):
        until = corpus.timestamp_ms[held_out[0]] - settings.gap_ms
        before = rows[corpus.timestamp_ms[rows] < until]
    for_validation = is_validation_user(corpus.user[before], settings)
    training, validation = before[~for_validation], before[for_validation]
    if len(training) == 0:
        raise TrainingDataError(
            f"{len(rows)} visits to learn from are too few: a visit counts when its user has {settings.min_history} "
            "earlier actions and acts in it on an item that has an embedding and was known before. Publish embeddings "
            "(lifeline produce --items FILE.npz), or longer histories"
        )
    rng = np.random.default_rng([settings.seed, 2])
    return Split(
        training,
        np.sort(rng.permutation(validation)[: settings.max_validated]),
        np.sort(rng.permutation(held_out)[: settings.max_held_out]),
    )


def is_validation_user(user: NDArray[np.int64], settings: TrainSettings) -> NDArray[np.bool_]:
    """Return which users only say when to stop: the same ones for every seed."""
    mixed = user.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(40)
    share: NDArray[np.bool_] = mixed < settings.validation_users * (1 << 24)
    return share


def _with_baselines(corpus: Corpus, request: Request, until_ms: int) -> Request:
    """Return a request with what popularity up to a time, and the user's last touch, say of it."""
    touched = features.last_touch(request.history.explicit, request.item_id).astype(np.float32)
    rankings = {"popularity": corpus.popularity(request.item_id, until_ms), "last_touch": touched}
    return replace(request, rankings=rankings)
