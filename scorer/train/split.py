"""The split of a corpus: by time with a gap, and by user."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lifeline.scorer.errors import TrainingDataError
from lifeline.scorer.settings import TrainSettings
from lifeline.scorer.train.corpus import Corpus


class Split(NamedTuple):
    """Numbers of a corpus's requests, oldest first; `validation` is the early-stopping set."""

    training: NDArray[np.int64]
    validation: NDArray[np.int64]
    held_out: NDArray[np.int64]


def split_requests(corpus: Corpus, settings: TrainSettings) -> Split:
    """Split the requests of a corpus; raises TrainingDataError if there are too few to train on."""
    rows = corpus.usable_requests(settings)
    split = split_by_time(rows, corpus.timestamp_ms[rows], corpus.user[rows], settings)
    if len(split.training) == 0:
        raise TrainingDataError(
            f"{len(rows)} usable visits are too few: a visit is usable if its user has {settings.min_history} "
            "earlier actions, and acts in it on an item with an embedding and an earlier action. Publish embeddings "
            "(lifeline produce --items FILE.npz), or longer histories"
        )
    return split


def split_by_time(
    rows: NDArray[np.int64], timestamp_ms: NDArray[np.int64], user: NDArray[np.int64], settings: TrainSettings
) -> Split:
    """Split requests, int64[r] oldest first; the training set may be empty."""
    cut = max(0, len(rows) - max(1, round(len(rows) * settings.held_out)))
    held_out = rows[cut:]
    before = np.zeros(len(rows), np.bool_)
    if len(held_out):
        before = timestamp_ms < timestamp_ms[cut] - settings.gap_ms
    for_stopping = is_validation_user(user, settings)
    rng = np.random.default_rng([settings.seed, 2])
    return Split(
        rows[before & ~for_stopping],
        np.sort(rng.permutation(rows[before & for_stopping])[: settings.max_validated]),
        np.sort(rng.permutation(held_out)[: settings.max_held_out]),
    )


def is_validation_user(user: NDArray[np.int64], settings: TrainSettings) -> NDArray[np.bool_]:
    """Return bool[n]: which users are in the early-stopping set; they are the same for every seed."""
    mixed = user.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(40)
    share: NDArray[np.bool_] = mixed < settings.validation_users * (1 << 24)
    return share
