"""Examples: training requests with selected tokens, held in memory, and batches of them.

Selection is most of the work of reading a history, and is the same for models with equal selection settings. So it is
done once per request: an example keeps the tokens selected for any candidate, and the newest impressions for the Next
Action Loss. That is about 57 bytes per token, and 3 bytes per position of each pair.
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
    """The inputs and labels of one step: r requests, b pairs."""

    inputs: Inputs
    labels: Tensor
    """float32[b, heads]."""
    first: NDArray[np.int64]
    """int64[r]: the first pair of each request."""
    next_actions: list[NextActions]
    """Of the first pair of each request; empty if they were not requested."""


class Draw(NamedTuple):
    """Options for a batch."""

    heads: tuple[Head, ...]
    candidates: int | None
    """Random candidates per request; None for all."""
    positive_types: Sequence[int]
    """Ids of the action types that count as positive next actions; empty: no next actions are computed."""
    hidden_hours: float = 0.0
    """The greatest random number of hours before a request whose explicit tokens are hidden."""


class Outcome(NamedTuple):
    """A logged or selected request, and the outcomes of its c candidates."""

    user: int
    snapshot: FeatureSnapshot
    action_types: NDArray[np.uint64]
    """uint64[c]: what the user did to each, bit id - 1; 0 for nothing."""
    rankings: Mapping[str, NDArray[np.float32]]
    """float32[c] by name: scores of other rankers, to compare with."""


class ExampleSource(Protocol):
    """Requests, addressed by their numbers."""

    def __len__(self) -> int: ...

    def batch(self, rows: NDArray[np.int64], rngs: Sequence[np.random.Generator], draw: Draw) -> Batch:
        """Return a batch of requests; each request's random draws depend on its own generator alone."""


@dataclass(frozen=True, slots=True)
class ExampleSet:
    """r requests with p pairs, selected to length L, over n tokens."""

    tokens: Tokens
    """Request after request; within each, explicit tokens come first, then S_imp."""
    token_from: NDArray[np.int64]
    """int64[r + 1]: row of each request's first token."""
    impression_from: NDArray[np.int64]
    """int64[r]: row of each request's first impression."""
    index: NDArray[np.int32]
    """int32[p, L]: rows relative to the request's first token; -1 for the neutral token and for padding."""
    source: NDArray[np.uint8]
    """uint8[p, L]."""
    pair_from: NDArray[np.int64]
    """int64[r + 1]: row of each request's first pair."""
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
    """float32[p] by name: scores of other rankers, to compare with."""

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
        """Concatenate outcomes that were all selected to one length; raises ValueError without snapshot."""
        parts = list(outcomes)
        if not parts:
            raise ValueError("there is no request: store longer histories")
        snapshots = [part.snapshot for part in parts]
        tokens = np.cumsum([0, *(len(snapshot.tokens) for snapshot in snapshots)])
        return cls(
            Tokens.concatenate([snapshot.tokens for snapshot in snapshots]),
            tokens,
            tokens[1:] - np.array([snapshot.impressions for snapshot in snapshots]),
            np.concatenate([snapshot.index for snapshot in snapshots]),
            np.concatenate([snapshot.source for snapshot in snapshots]),
            np.cumsum([0, *(len(snapshot.item_id) for snapshot in snapshots)]),
            np.concatenate([snapshot.item_id for snapshot in snapshots]),
            np.concatenate([snapshot.embedding for snapshot in snapshots]),
            np.concatenate([snapshot.features for snapshot in snapshots]),
            np.concatenate([part.action_types for part in parts]),
            np.array([part.user for part in parts], np.int64),
            np.array([snapshot.context.timestamp_ms for snapshot in snapshots], np.int64),
            np.array([snapshot.context.surface for snapshot in snapshots], np.uint8),
            {name: np.concatenate([part.rankings[name] for part in parts]) for name in parts[0].rankings},
        )

    def pairs_of(self, row: int) -> NDArray[np.int64]:
        """Return the pairs of one request."""
        return np.arange(self.pair_from[row], self.pair_from[row + 1])

    def batch(self, rows: NDArray[np.int64], rngs: Sequence[np.random.Generator], draw: Draw) -> Batch:
        """Return a batch of requests; each request's random draws depend on its own generator alone."""
        pairs, indices, sources, parts, targets = [], [], [], [], []
        offset = 0
        for row, rng in zip(rows.tolist(), rngs, strict=True):
            sampled = self.pairs_of(row)
            if draw.candidates is not None and draw.candidates < len(sampled):
                sampled = np.sort(rng.choice(sampled, draw.candidates, replace=False))
            tokens = self.tokens.take(slice(self.token_from[row], self.token_from[row + 1]))
            index, source = self.index[sampled].astype(np.int64), self.source[sampled]
            if draw.hidden_hours:
                index, source = self._without_newest(row, tokens, index, source, rng.uniform(0, draw.hidden_hours))
            if draw.positive_types:
                first = (index[0], source[0])
                impressions = tokens.embedding[self.impression_from[row] - self.token_from[row] :]
                targets.append(next_actions(int(self.user[row]), tokens, first, impressions, draw.positive_types))
            pairs.append(sampled)
            indices.append(np.where(index < 0, -1, index + offset))
            sources.append(source)
            parts.append(tokens)
            offset += len(tokens)
        counts = [len(sampled) for sampled in pairs]
        at, index, source = np.concatenate(pairs), np.concatenate(indices), np.concatenate(sources)
        table = Tokens.concatenate(parts)
        embedding = self.embedding[at]
        selection = restore(index, source, embedding, table.embedding)
        request = np.repeat(rows, counts)
        pair_features = Pairs(embedding, self.timestamp_ms[request], self.context[at], self.surface[request])
        return Batch(
            Inputs.of(table, selection, pair_features),
            torch.from_numpy(labels(self.action_types[at], draw.heads)),
            np.cumsum([0, *counts[:-1]]),
            targets,
        )

    def _without_newest(
        self, row: int, tokens: Tokens, index: NDArray[np.int64], source: NDArray[np.uint8], hours: float
    ) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
        """Return index and source, int64[c, L] and uint8[c, L], without explicit tokens of the last hours."""
        hidden = tokens.timestamp_ms > self.timestamp_ms[row] - hours * _HOUR_MS
        hidden[self.impression_from[row] - self.token_from[row] :] = False
        # Index -1 reads the appended False: the neutral token and padding are never hidden.
        is_hidden = np.append(hidden, False)[index]
        index, source = np.where(is_hidden, -1, index), np.where(is_hidden, np.uint8(Source.NONE), source)
        # A stable sort by one bit moves the remaining tokens to the front, in their order.
        order = np.argsort(index < 0, axis=1, kind="stable")
        return np.take_along_axis(index, order, axis=1), np.take_along_axis(source, order, axis=1)


class CorpusSource:
    """Requests of a corpus, selected on demand, with new random negatives each time."""

    def __init__(self, corpus: Corpus, rows: NDArray[np.int64], config: ModelConfig, settings: TrainSettings) -> None:
        """`rows` are requests of the corpus."""
        self._corpus, self._rows, self._config, self._settings = corpus, rows, config, settings

    def __len__(self) -> int:
        return len(self._rows)

    def batch(self, rows: NDArray[np.int64], rngs: Sequence[np.random.Generator], draw: Draw) -> Batch:
        """Return a batch of requests; each request's random draws depend on its own generator alone."""
        requests = [
            self._corpus.request(int(row), self._settings, rng) for row, rng in zip(self._rows[rows], rngs, strict=True)
        ]
        return ExampleSet.of(requests, self._config).batch(np.arange(len(requests)), rngs, draw)
