"""Corpus: requests made from histories, correct at their point in time.

A request is made when a visit (of events of either kind) begins, and sees only what happened before. Its
candidates are items acted on in that visit, and negatives drawn from what was known by then: recent, popular
(as often as it was acted on) and random items of all users, and the user's own old ones. Every candidate has
an embedding and somebody acted on it before, so that neither gives the answer away.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from scorer.config import ModelConfig
from scorer.errors import TrainingDataError
from scorer.features import History, RequestContext, Tokens, tokenise, visits
from scorer.settings import TrainSettings
from scorer.train.request import Request
from store.actions import Kind
from store.sequence import Sequence


@dataclass(frozen=True, slots=True)
class Corpus:
    """All users' tokens, user after user, about 80 bytes a token; and the items and requests in them."""

    config: ModelConfig
    explicit: Tokens
    impressions: Tokens
    impressions_from: NDArray[np.int64]
    """int64[users + 1]: where each user's impressions begin."""
    item: NDArray[np.int64]
    """int64[n]: the item of each explicit token."""
    item_id: NDArray[np.uint64]
    """uint64[m]: ids of the items."""
    embedding: NDArray[np.int8]
    """int8[m, 32]: embeddings of the items; zeros where there is none."""
    embedded: NDArray[np.bool_]
    """bool[m]: whether the item has an embedding."""
    first_seen_ms: NDArray[np.int64]
    """int64[m]: when somebody first acted on the item."""
    stream: tuple[NDArray[np.int64], NDArray[np.int64]]
    """int64[n] times and items of all users' explicit tokens, oldest first."""
    births: tuple[NDArray[np.int64], NDArray[np.int64]]
    """int64[m] times and items, in the order of their first sight."""
    user: NDArray[np.int64]
    """int64[r]: whose request it is."""
    user_from: NDArray[np.int64]
    """int64[r]: where that user's explicit tokens begin."""
    acts_from: NDArray[np.int64]
    """int64[r + 1]: where the tokens of the request's own visit begin; they end where the next's begin."""
    timestamp_ms: NDArray[np.int64]
    """int64[r]: when the request is made."""

    @classmethod
    def of(cls, histories: Iterable[Mapping[Kind, Sequence]], config: ModelConfig) -> Self:
        """Read every user's sequences, with all columns; raises TrainingDataError without one event."""
        explicit, impressions, starts = [], [], []
        for sequences in histories:
            tokens, ignored = tokenise(sequences, config.visit_gap_ms)
            explicit.append(tokens)
            impressions.append(ignored)
            starts.append(_visit_start(sequences, tokens, config.visit_gap_ms))
        lengths = np.array([len(tokens) for tokens in explicit], np.int64)
        every = Tokens.concatenate(explicit)
        if len(every) == 0:
            raise TrainingDataError("no history holds an explicit action: publish a history first")
        item_id, first, item = np.unique(every.item_id, return_index=True, return_inverse=True)
        embedding = every.embedding[first]
        known = np.flatnonzero(every.embedding.any(axis=1))
        embedding[item[known]] = every.embedding[known]
        first_seen_ms = np.full(len(item_id), np.iinfo(np.int64).max)
        np.minimum.at(first_seen_ms, item, every.timestamp_ms)
        by_time = np.argsort(every.timestamp_ms, kind="stable")
        by_birth = np.argsort(first_seen_ms, kind="stable")

        user = np.repeat(np.arange(len(lengths)), lengths)
        start = np.concatenate(starts)
        begins = np.flatnonzero(np.r_[True, (user[1:] != user[:-1]) | (start[1:] != start[:-1])])
        return cls(
            config,
            every,
            Tokens.concatenate(impressions),
            np.cumsum([0, *(len(tokens) for tokens in impressions)]),
            item,
            item_id,
            embedding,
            np.any(embedding, axis=1, keepdims=True)[:, 0],
            first_seen_ms,
            (every.timestamp_ms[by_time], item[by_time]),
            (first_seen_ms[by_birth], by_birth),
            user[begins],
            (np.cumsum(lengths) - lengths)[user[begins]],
            np.append(begins, len(every)),
            start[begins],
        )

    def usable(self, settings: TrainSettings) -> NDArray[np.int64]:
        """Return the requests to learn from and to measure on, oldest first, as int64."""
        asked_at = np.repeat(self.timestamp_ms, np.diff(self.acts_from))
        positive = np.logical_or.reduceat(self._known(self.item, asked_at), self.acts_from[:-1])
        history = self.acts_from[:-1] - self.user_from >= settings.min_history
        from_ms = settings.from_timestamp_ms
        late = True if from_ms is None else self.timestamp_ms >= from_ms
        rows = np.flatnonzero(positive & history & late)
        return rows[np.argsort(self.timestamp_ms[rows], kind="stable")]

    def request(self, row: int, settings: TrainSettings, rng: np.random.Generator) -> Request:
        """Build one request; what it draws depends on `rng` alone."""
        at = int(self.timestamp_ms[row])
        user, begin = int(self.user[row]), int(self.user_from[row])
        acts = slice(int(self.acts_from[row]), int(self.acts_from[row + 1]))
        shown = slice(int(self.impressions_from[user]), int(self.impressions_from[user + 1]))
        impressions = self.impressions.take(shown)
        history = History.of(
            self.explicit.take(slice(begin, acts.start)),
            impressions.take(slice(0, int(np.searchsorted(impressions.timestamp_ms, at)))),
            self.config,
        )
        acted, inverse = np.unique(self.item[acts], return_inverse=True)
        action_types = np.zeros(len(acted), np.uint64)
        np.bitwise_or.at(action_types, inverse, self.explicit.action_types[acts])
        chosen = np.flatnonzero(self._known(acted, at))
        most = min(settings.max_positives, settings.candidates - 1)
        if len(chosen) > most:
            chosen = rng.choice(chosen, most, replace=False)
        drawn = self._draw(row, 2 * settings.candidates, settings, rng)
        drawn = drawn[self._known(drawn, at) & ~np.isin(drawn, acted)]
        drawn = drawn[np.sort(np.unique(drawn, return_index=True)[1])][: settings.candidates - len(chosen)]
        item = np.concatenate([acted[chosen], drawn])
        return Request(
            user,
            history,
            # Histories do not say where a visit's items were shown before the user acted: the surface is unknown.
            RequestContext(at),
            self.item_id[item],
            self.embedding[item],
            np.concatenate([action_types[chosen], np.zeros(len(drawn), np.uint64)]),
        )

    def popularity(self, item_id: NDArray[np.uint64], until_ms: int) -> NDArray[np.float32]:
        """Return how often all users acted on items of the corpus up to a time, as float32[c]."""
        times, items = self.stream
        counts = np.bincount(items[: np.searchsorted(times, until_ms, side="right")], minlength=len(self.item_id))
        return counts[np.searchsorted(self.item_id, item_id)].astype(np.float32)

    def _known(self, item: NDArray[np.int64], at_ms: int | NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return whether an item has an embedding, and somebody acted on it before a time."""
        return self.embedded[item] & (self.first_seen_ms[item] < at_ms)

    def _draw(self, row: int, each: int, settings: TrainSettings, rng: np.random.Generator) -> NDArray[np.int64]:
        """Return items known before a request: recent, popular, random and own ones, taking turns."""
        (times, items), (born_ms, born) = self.stream, self.births
        past = int(np.searchsorted(times, self.timestamp_ms[row]))
        known = int(np.searchsorted(born_ms, self.timestamp_ms[row]))
        begin, end = int(self.user_from[row]), int(self.acts_from[row])
        recent = items[rng.integers(max(0, past - settings.recent_events), past, each)]
        popular = items[rng.integers(past, size=each)]
        random = born[rng.integers(known, size=each)]
        own = self.item[rng.integers(begin, end, each)]
        return np.stack([recent, popular, random, own], axis=1).ravel()


def _visit_start(sequences: Mapping[Kind, Sequence], tokens: Tokens, gap_ms: int) -> NDArray[np.int64]:
    """Return when the visit of each explicit token began; here visits are runs of events of both kinds."""
    times = [np.empty(0, np.int64)]
    times += [events.timestamp_ms for events in sequences.values() if events.timestamp_ms is not None]
    every = np.sort(np.concatenate(times))
    if len(every) == 0:
        return every
    visit = visits(every, gap_ms)
    starts = every[np.flatnonzero(np.diff(visit, prepend=-1))]
    return starts[np.searchsorted(starts, tokens.timestamp_ms, side="right") - 1]
