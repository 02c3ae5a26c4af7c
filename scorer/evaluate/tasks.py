"""Tasks: requests with known outcomes, split into a training set, an early-stopping set and a test set.

The three sets never share a request. A gap in time separates training from test. Users of the early-stopping set are
never trained on, and settings are tuned on them alone.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from lifeline.core.actions import Kind
from lifeline.core.sequence import Sequence
from lifeline.core.vocabulary import Role, Vocabulary
from lifeline.scorer import features
from lifeline.scorer.config import Head, ModelConfig, default_heads
from lifeline.scorer.evaluate.simulated_requests import requests_of
from lifeline.scorer.evaluate.simulator import DAY_MS, START_MS, SimulatedUser, Simulator
from lifeline.scorer.features import Tokens
from lifeline.scorer.selection import cosines
from lifeline.scorer.settings import TrainSettings
from lifeline.scorer.train.corpus import Corpus
from lifeline.scorer.train.examples import ExampleSet
from lifeline.scorer.train.request import Request
from lifeline.scorer.train.split import is_validation_user, split_requests

_GAP_DAYS = 7
_LAST, _MANY = 10, 64


class Splits(NamedTuple):
    """The examples of a task, selected for the models of one configuration."""

    training: ExampleSet
    validation: ExampleSet
    test: ExampleSet


class Task(Protocol):
    """A set of requests to train and evaluate models on."""

    name: str
    identity: str
    """A text that contains everything that the requests depend on; the run cache uses it as a key."""
    heads: tuple[Head, ...]
    positive_types: list[int]
    """Ids of the action types that count as positive next actions."""

    def splits(self, config: ModelConfig) -> Splits:
        """Select tokens for a model; the requests are the same for every model."""


class SimulatedTask:
    """The simulator's requests, with the oracle as one of the rankings."""

    def __init__(self, simulator: Simulator, settings: TrainSettings) -> None:
        """Simulate every user once, to count the popularity of the items before the test."""
        self.name = f"simulator, world {simulator.settings.seed}"
        self.identity = f"{simulator.settings.model_dump_json()} {sorted(simulator.vocabulary.action_types)}"
        self.heads = default_heads(simulator.vocabulary)
        self.positive_types = simulator.vocabulary.ids_with_role(Role.POSITIVE)
        self._simulator, self._settings = simulator, settings
        self._until_ms = START_MS + (simulator.settings.test_from_day - _GAP_DAYS) * DAY_MS
        self._popularity = np.zeros(len(simulator.items.item_id), np.float32)
        impressions = simulator.vocabulary.ids_with_role(Role.IMPRESSION)
        for user in simulator.users():
            events = user.events
            counted = (events.timestamp_ms < self._until_ms) & ~np.isin(events.action_type, impressions)
            self._popularity += np.bincount(events.item[counted], minlength=len(self._popularity))

    def splits(self, config: ModelConfig) -> Splits:
        """Select tokens for a model; the requests are the same for every model."""
        numbers = np.arange(self._simulator.settings.users)
        for_stopping = is_validation_user(numbers, self._settings)
        training, stopping = numbers[~for_stopping].tolist(), numbers[for_stopping].tolist()
        return Splits(
            ExampleSet.of(self._requests(training, config, test=False), config),
            ExampleSet.of(self._requests(stopping, config, test=False), config),
            ExampleSet.of(self._requests(training, config, test=True), config),
        )

    def _requests(self, numbers: list[int], config: ModelConfig, *, test: bool) -> Iterator[Request]:
        for number in numbers:
            user: SimulatedUser = self._simulator.user(number)
            for request in requests_of(self._simulator, user, number, config, test=test):
                if test or request.context.timestamp_ms < self._until_ms:
                    yield self._ranked(user, request) if test else replace(request, rankings={})

    def _ranked(self, user: SimulatedUser, request: Request) -> Request:
        row = int(np.searchsorted(user.requests.timestamp_ms, request.context.timestamp_ms))
        popularity = self._popularity[user.requests.item[row]]
        return _with_rules(replace(request, rankings={**request.rankings, "popularity": popularity}))


class HistoryTask:
    """Requests built from real histories: the items that a user acts on next, among items that others act on."""

    def __init__(
        self,
        name: str,
        histories: Iterable[Mapping[Kind, Sequence]],
        vocabulary: Vocabulary,
        settings: TrainSettings,
        *,
        visit_gap_ms: int = ModelConfig.model_fields["visit_gap_ms"].default,
    ) -> None:
        """Build the corpus; raises TrainingDataError if the histories give too few requests."""
        self.name = name
        self.heads = default_heads(vocabulary)
        self.positive_types = vocabulary.ids_with_role(Role.POSITIVE)
        self._settings = settings
        self._corpus = Corpus.of(histories, ModelConfig(heads=self.heads, visit_gap_ms=visit_gap_ms))
        split = split_requests(self._corpus, settings)
        # At limit as many as training reads once.
        limit = settings.steps * settings.requests_per_step
        sampled = np.random.default_rng([settings.seed, 6]).permutation(len(split.training))[:limit]
        self._split = split._replace(training=split.training[np.sort(sampled)])
        self._until_ms = int(self._corpus.timestamp_ms[self._split.training[-1]])
        self.identity = f"{name} {_hash_of(self._corpus)} {visit_gap_ms} {settings.model_dump_json()}"

    def splits(self, config: ModelConfig) -> Splits:
        """Select tokens for a model; the requests are the same for every model."""
        # Tokens are merged already, so the visit gap of this configuration has no effect.
        corpus = replace(self._corpus, config=config)

        def requests(rows: NDArray[np.int64], *, test: bool) -> Iterator[Request]:
            for row in rows.tolist():
                rng = np.random.default_rng([self._settings.seed, 5, row])
                request = corpus.request(row, self._settings, rng)
                if test:
                    popularity = corpus.popularity(request.item_id, self._until_ms)
                    request = _with_rules(replace(request, rankings={"popularity": popularity}))
                yield request

        return Splits(
            ExampleSet.of(requests(self._split.training, test=False), config),
            ExampleSet.of(requests(self._split.validation, test=False), config),
            ExampleSet.of(requests(self._split.held_out, test=True), config),
        )


def cosine_rankings(explicit: Tokens, candidates: NDArray[np.int8]) -> dict[str, NDArray[np.float32]]:
    """Return rankings of int8[c, 32] candidates by their cosines with the explicit history, float32[c] by name."""
    similarity = cosines(candidates, explicit.embedding)
    if similarity.shape[1] == 0:
        similarity = np.zeros((len(candidates), 1), np.float32)
    many = min(_MANY, similarity.shape[1])
    newest = similarity[:, -_LAST:]
    return {
        "max_cosine_last_10": newest.max(axis=1),
        "mean_cosine_last_10": newest.mean(axis=1),
        "max_cosine": similarity.max(axis=1),
        "mean_cosine": similarity.mean(axis=1),
        "mean_of_top_64": np.partition(similarity, -many, axis=1)[:, -many:].mean(axis=1),
    }


def _hash_of(corpus: Corpus) -> str:
    digest = hashlib.sha256()
    for column in (
        corpus.explicit.timestamp_ms,
        corpus.explicit.item_id,
        corpus.explicit.action_types,
        corpus.embedding,
    ):
        digest.update(column.tobytes())
    return digest.hexdigest()


def _with_rules(request: Request) -> Request:
    """Return a request with the rankings of rules that need no training."""
    explicit = request.history.explicit
    touched = features.last_touch(explicit, request.item_id).astype(np.float32)
    rules = {"last_touch": touched, **cosine_rankings(explicit, request.embedding)}
    return replace(request, rankings={**request.rankings, **rules})
