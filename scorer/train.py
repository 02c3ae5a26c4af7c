"""Training: L = L_CE + nal_weight * L_NAL on requests of the past, measured on later ones.

    L_CE = sum_h -w_h [ y_h log f_h + (1 - y_h) log(1 - f_h) ]

The newest share of the requests is held out, after a gap, and never trained on. Popularity and last touch,
the two baselines, are counted from the same data. With the same histories, settings and number of threads
the same weights come out, unless `TrainSettings.max_seconds` is set.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from scorer import features
from scorer.config import ModelConfig, default_heads
from scorer.errors import TrainingDataError
from scorer.examples import Corpus, Request
from scorer.features import Tokens
from scorer.metrics import auc, hit_at
from scorer.model import Inputs, TransAct
from scorer.next_action import NextActions, next_action_loss, next_actions
from scorer.selection import Selection, select
from scorer.settings import TrainSettings
from scorer.weights import DataRange
from store.actions import Kind
from store.sequence import Sequence
from store.vocabulary import Role, Vocabulary

Progress = Callable[[int, int, float, float], None]
"""Called after each step with: step, total, loss, examples/s. With `max_seconds` the total is an estimate."""

TOP = 3


@dataclass(frozen=True, slots=True)
class Trained:
    """What training gives."""

    model: TransAct
    """In evaluation mode."""
    metrics: dict[str, float]
    """On the held-out requests, and how many requests of each part there were."""
    data: DataRange
    """The oldest and the newest explicit token of the histories."""


def train(
    histories: Iterable[Mapping[Kind, Sequence]],
    vocabulary: Vocabulary,
    settings: TrainSettings,
    config: ModelConfig | None = None,
    progress: Progress | None = None,
) -> Trained:
    """Train a model on users' sequences, read with all columns, and measure it.

    Without `config`: the published model with `default_heads`. Raises TrainingDataError where the histories
    give too few requests.
    """
    config = config or ModelConfig(heads=default_heads(vocabulary))
    corpus = Corpus.of(histories, config)
    training, held_out = _split(corpus, settings)
    with _deterministic(settings):
        model = TransAct(config)
        _fit(model, corpus, training, vocabulary, settings, progress)
        model.eval()
        rng = np.random.default_rng([settings.seed, 2])
        measured = np.sort(rng.permutation(held_out)[: settings.max_held_out])
        metrics = measure(model, corpus, measured, int(corpus.timestamp_ms[training[-1]]), settings)
    times = corpus.explicit.timestamp_ms
    counts = {"train_requests": float(len(training)), "held_out_requests": float(len(measured))}
    return Trained(model, metrics | counts, DataRange(from_timestamp_ms=times.min(), to_timestamp_ms=times.max()))


def measure(
    model: TransAct, corpus: Corpus, rows: NDArray[np.int64], popular_until_ms: int, settings: TrainSettings
) -> dict[str, float]:
    """Return AUC and HIT@3 of the model and of the baselines: means over the requests `rows`.

    A candidate is true where the user did something to it that a head with a positive utility counts; a
    request without one is left out. Popularity is counted up to `popular_until_ms`.
    """
    config = model.config
    utility = np.array([head.utility for head in config.heads], np.float32)
    times, items = corpus.stream
    popularity = np.bincount(
        items[: np.searchsorted(times, popular_until_ms, side="right")], minlength=len(corpus.item_id)
    )
    rng = np.random.default_rng([settings.seed, 3])
    totals: dict[str, list[float]] = {}
    for row in rows:
        request = corpus.request(int(row), settings, rng)
        true = request.labels(config) @ (utility > 0) > 0
        if not true.any() or true.all():
            continue
        with torch.inference_mode():
            probabilities = torch.sigmoid(model(_inputs(corpus, [request])[0])).numpy()
        scores = {
            "": probabilities @ utility,
            "popularity_": popularity[request.item].astype(np.float32),
            "last_touch_": features.last_touch(request.history.explicit, corpus.item_id[request.item]).astype(
                np.float32
            ),
        }
        for name, score in scores.items():
            totals.setdefault(f"{name}auc", []).append(auc(score, true))
            totals.setdefault(f"{name}hit_at_{TOP}", []).append(hit_at(TOP, score, true))
    return {name: float(np.mean(values)) for name, values in totals.items()}


def _split(corpus: Corpus, settings: TrainSettings) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows of training and of held-out requests, oldest first."""
    rows = corpus.usable(settings)
    cut = len(rows) - max(1, round(len(rows) * settings.held_out))
    held_out = rows[max(0, cut) :]
    training = rows[:0]
    if len(held_out):
        until = corpus.timestamp_ms[held_out[0]] - settings.gap_ms
        training = rows[corpus.timestamp_ms[rows] < until]
    if len(training) == 0:
        raise TrainingDataError(
            f"{len(rows)} visits to learn from are too few: a visit counts when its user has {settings.min_history} "
            "earlier actions and acts in it on an item that has an embedding and was known before. Publish embeddings "
            "(lifeline produce --items FILE.npz), or longer histories"
        )
    return training, held_out


def _fit(
    model: TransAct,
    corpus: Corpus,
    training: NDArray[np.int64],
    vocabulary: Vocabulary,
    settings: TrainSettings,
    progress: Progress | None,
) -> None:
    config = model.config
    positive_types = vocabulary.ids_with_role(Role.POSITIVE)
    weight = torch.tensor([head.loss_weight for head in config.heads])
    optimiser = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    rng = np.random.default_rng([settings.seed, 1])
    batches = _batches(training, settings.requests_per_step, rng)
    model.train()
    begun, seen, step, done = time.monotonic(), 0, 0, 0.0
    while done < 1:
        requests = [corpus.request(int(row), settings, rng) for row in next(batches)]
        inputs, selections = _inputs(corpus, requests)
        labels = torch.from_numpy(np.concatenate([request.labels(config) for request in requests]))
        encoded = model.encoder(inputs)
        losses = functional.binary_cross_entropy_with_logits(model.rank(inputs, encoded), labels, reduction="none")
        loss = (losses * weight).sum(dim=1).mean()
        if config.nal_weight:
            first = np.cumsum([0, *(len(request.item) for request in requests[:-1])])
            projected = model.next_action(encoded[torch.from_numpy(first)])
            targets = _next_actions(requests, selections, positive_types)
            loss = loss + config.nal_weight * next_action_loss(projected, targets, config, rng)
        for group in optimiser.param_groups:
            group["lr"] = settings.learning_rate * _one_cycle(done, settings.warm_up)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip_norm)
        optimiser.step()

        step, seen = step + 1, seen + len(labels)
        elapsed = time.monotonic() - begun
        done = max(step / settings.steps, elapsed / (settings.max_seconds or math.inf))
        if progress is not None:
            progress(step, max(step, round(step / done)), loss.item(), seen / max(elapsed, 1e-9))


def _batches(rows: NDArray[np.int64], size: int, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """Yield rows in batches without end, every row once before any comes again."""
    waiting = rows[:0]
    while True:
        while len(waiting) < size:
            waiting = np.concatenate([waiting, rng.permutation(rows)])
        yield waiting[:size]
        waiting = waiting[size:]


def _one_cycle(done: float, warm_up: float) -> float:
    """Return the learning rate's share of its peak: up in a straight line, down as a cosine."""
    if done < warm_up:
        return max(0.04, done / warm_up)
    return 0.5 + 0.5 * math.cos(math.pi * (done - warm_up) / (1 - warm_up))


def _inputs(corpus: Corpus, requests: list[Request]) -> tuple[Inputs, list[Selection]]:
    """Return the model's inputs for all candidates of `requests`, and each request's selection."""
    config = corpus.config
    selections = [select(request.history, corpus.embedding[request.item], config) for request in requests]
    parts, pointing, offset = [], [], 0
    for request, selection in zip(requests, selections, strict=True):
        tokens, compact = selection.compact(request.history.tokens)
        parts.append(tokens)
        pointing.append(compact.shift(offset))
        offset += len(tokens)
    item = np.concatenate([request.item for request in requests])
    context = [
        features.context(request.history.explicit, corpus.item_id[request.item], request.context, config)
        for request in requests
    ]
    # Histories do not say where a visit's items were shown before the user acted: unknown.
    surface = np.zeros(len(item), np.uint8)
    inputs = Inputs.of(
        Tokens.concatenate(parts),
        Selection.concatenate(pointing).trim(),
        corpus.embedding[item],
        np.concatenate(context),
        surface,
    )
    return inputs, selections


def _next_actions(requests: list[Request], selections: list[Selection], positive_types: list[int]) -> list[NextActions]:
    return [
        next_actions(request.user, request.history, selection, positive_types)
        for request, selection in zip(requests, selections, strict=True)
    ]


@contextmanager
def _deterministic(settings: TrainSettings) -> Iterator[None]:
    """Seed torch and set its threads, and put both back afterwards."""
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        torch.set_num_threads(settings.threads)
        try:
            yield
        finally:
            torch.set_num_threads(threads)
