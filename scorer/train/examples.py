"""Examples: requests with their tokens selected, many of them resident, and batches of them for the model.

Selecting is most of the work of reading a history, and the same for every model that selects alike. So it is done once
a request: of a history what was selected for any of the candidates is kept, and the newest impressions, which the Next
Action Loss compares with. That is about 57 bytes a token, and 3 bytes for each place of each pair.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lifeline.scorer.config import Head, ModelConfig
from lifeline.scorer.feature_snapshot import FeatureSnapshot
from lifeline.scorer.features import Tokens
from lifeline.scorer.inputs import Inputs, Pairs
from lifeline.scorer.selection import Source, restore
from lifeline.scorer.settings import TrainSettings
from lifeline.scorer.train.corpus import Corpus
from lifeline.scorer.train.next_action import NextActions, next_actions
from lifeline.scorer.train.request import Request, labels

_HOUR_MS = 3_600_000


class Batch(NamedTuple):
    """What one step reads: r requests, b pairs."""

    inputs: Inputs
    labels: Tensor
    """float32[b, heads]."""
    first: NDArray[np.int64]
    """int64[r]: the first pair of each request."""
    next_actions: list[NextActions]
    """Of the first pair of each request; empty where they were not asked for."""


class Draw(NamedTuple):
    """How a batch is drawn."""

    heads: tuple[Head, ...]
    candidates: int | None
    """Candidates of a request, drawn anew; None for all."""
    positive_types: Sequence[int]
    """Ids of action types that next actions may be of; none: next actions are not asked for."""
    hidden_hours: float = 0.0
    """Explicit tokens of the last so many hours at most are hidden: how many is drawn for each request."""


class Outcome(NamedTuple):
    """A selected request, and what came of its c candidates."""

    user: int
    selected: FeatureSnapshot
    action_types: NDArray[np.uint64]
    """uint64[c]: what the user did to each, bit id - 1; 0 for nothing."""
    rankings: Mapping[str, NDArray[np.float32]]
    """float32[c] by name: scores to compare a model's with."""


class ExampleSource(Protocol):
    """Requests that can be drawn, by their number."""

    def __len__(self) -> int: ...

    def batch(self, rows: NDArray[np.int64], rngs: Sequence[np.random.Generator], draw: Draw) -> Batch:
        """Return a batch of requests; what is drawn of each depends on its own generator alone."""


@dataclass(frozen=True, slots=True)
class ExampleSet:
    """r requests with p pairs, selected to length L, over n tokens."""

    tokens: Tokens
    """Request after request; those that are impressions of S_imp stand behind the explicit ones."""
    token_from: NDArray[np.int64]
    """int64[r + 1]."""
    impression_from: NDArray[np.int64]
    """int64[r]: where each request's impressions begin."""
    index: NDArray[np.int32]
    """int32[p, L]: from the request's first token; -1 is the neutral token, and padding."""
    source: NDArray[np.uint8]
    """uint8[p, L]."""
    pair_from: NDArray[np.int64]
    """int64[r + 1]."""
    item_id: NDArray[np.uint64]
    """uint64[p]."""
    embedding: NDArray[np.int8]
    """int8[p, 32]."""
    context: NDArray[np.float32]
    """float32[p, context features]."""
    action_types: NDArray[np.uint64]
    """uint64[p]."""
    user: NDArray[np.int64]
    """int64[r]."""
    timestamp_ms: NDArray[np.int64]
    """int64[r]."""
    surface: NDArray[np.uint8]
    """uint8[r]."""
    rankings: dict[str, NDArray[np.float32]]
    """float32[p] by name: scores to compare a model's with."""

    def __len__(self) -> int:
        return len(self.user)

    @classmethod
    def of(cls, requests: Iterable[Request], config: ModelConfig) -> Self:
        """Select for every candidate of every request; raises ValueError without a request."""
        return cls.of_outcomes(
            Outcome(
                request.user,
                FeatureSnapshot.of(request.history, request.item_id, request.embedding, request.context, config)[0],
                request.action_types,
                request.rankings,
            )
            for request in requests
        )

    @classmethod
    def of_outcomes(cls, outcomes: Iterable[Outcome]) -> Self:
        """Put together requests that were selected before, all to one length; raises ValueError without one."""
        parts = list(outcomes)
        if not parts:
            raise ValueError("there is no request: make some first")
        selected = [one.selected for one in parts]
        tokens = np.cumsum([0, *(len(one.tokens) for one in selected)])
        return cls(
            Tokens.concatenate([one.tokens for one in selected]),
            tokens,
            tokens[1:] - np.array([one.impressions for one in selected]),
            np.concatenate([one.index for one in selected]),
            np.concatenate([one.source for one in selected]),
            np.cumsum([0, *(len(one.item_id) for one in selected)]),
            np.concatenate([one.item_id for one in selected]),
            np.concatenate([one.embedding for one in selected]),
            np.concatenate([one.features for one in selected]),
            np.concatenate([one.action_types for one in parts]),
            np.array([one.user for one in parts], np.int64),
            np.array([one.context.timestamp_ms for one in selected], np.int64),
            np.array([one.context.surface for one in selected], np.uint8),
            {name: np.concatenate([one.rankings[name] for one in parts]) for name in parts[0].rankings},
        )

    def pairs_of(self, row: int) -> NDArray[np.int64]:
        """Return the pairs of one request."""
        return np.arange(self.pair_from[row], self.pair_from[row + 1])

    def batch(self, rows: NDArray[np.int64], rngs: Sequence[np.random.Generator], draw: Draw) -> Batch:
        """Return a batch of requests; what is drawn of each depends on its own generator alone."""
        pairs, indices, sources, parts, targets = [], [], [], [], []
        offset = 0
        for row, rng in zip(rows.tolist(), rngs, strict=True):
            chosen = self.pairs_of(row)
            if draw.candidates is not None and draw.candidates < len(chosen):
                chosen = np.sort(rng.choice(chosen, draw.candidates, replace=False))
            tokens = self.tokens.take(slice(self.token_from[row], self.token_from[row + 1]))
            index, source = self.index[chosen].astype(np.int64), self.source[chosen]
            if draw.hidden_hours:
                index, source = self._without_newest(row, tokens, index, source, rng.uniform(0, draw.hidden_hours))
            if draw.positive_types:
                first = (index[0], source[0])
                impressions = tokens.embedding[self.impression_from[row] - self.token_from[row] :]
                targets.append(next_actions(int(self.user[row]), tokens, first, impressions, draw.positive_types))
            pairs.append(chosen)
            indices.append(np.where(index < 0, -1, index + offset))
            sources.append(source)
            parts.append(tokens)
            offset += len(tokens)
        counts = [len(chosen) for chosen in pairs]
        at, index, source = np.concatenate(pairs), np.concatenate(indices), np.concatenate(sources)
        table = Tokens.concatenate(parts)
        embedding = self.embedding[at]
        selection = restore(index, source, embedding, table.embedding)
        request = np.repeat(rows, counts)
        about = Pairs(embedding, self.timestamp_ms[request], self.context[at], self.surface[request])
        return Batch(
            Inputs.of(table, selection, about),
            torch.from_numpy(labels(self.action_types[at], draw.heads)),
            np.cumsum([0, *counts[:-1]]),
            targets,
        )

    def _without_newest(
        self, row: int, tokens: Tokens, index: NDArray[np.int64], source: NDArray[np.uint8], hours: float
    ) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
        """Return int64[c, L] and uint8[c, L] without the explicit tokens of the last hours before the request."""
        hidden = tokens.timestamp_ms > self.timestamp_ms[row] - hours * _HOUR_MS
        hidden[self.impression_from[row] - self.token_from[row] :] = False
        # The row behind the last stands for what is not there, which is never hidden.
        gone = np.append(hidden, False)[index]
        index, source = np.where(gone, -1, index), np.where(gone, np.uint8(Source.NONE), source)
        # A stable sort of one bit: what is left comes first, in its order.
        order = np.argsort(index < 0, axis=1, kind="stable")
        return np.take_along_axis(index, order, axis=1), np.take_along_axis(source, order, axis=1)


class CorpusSource:
    """Requests of a corpus, selected when they are drawn, with other negatives each time."""

    def __init__(self, corpus: Corpus, rows: NDArray[np.int64], config: ModelConfig, settings: TrainSettings) -> None:
        """`rows` are requests of the corpus."""
        self._corpus, self._rows, self._config, self._settings = corpus, rows, config, settings

    def __len__(self) -> int:
        return len(self._rows)

    def batch(self, rows: NDArray[np.int64], rngs: Sequence[np.random.Generator], draw: Draw) -> Batch:
        """Return a batch of requests; what is drawn of each depends on its own generator alone."""
        requests = [
            self._corpus.request(int(row), self._settings, rng) for row, rng in zip(self._rows[rows], rngs, strict=True)
        ]
        return ExampleSet.of(requests, self._config).batch(np.arange(len(requests)), rngs, draw)
