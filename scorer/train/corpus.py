"""Corpus: requests made from histories, correct at their point in time.

A request is made when a visit (of events of either kind) begins, and sees only what happened before. Its
candidates are items acted on in that visit, and negatives drawn from what was known by then, by configuration in
another proportion: of the newest events of all users (`recent`, and over a longer time `older`), as often as they were
acted on (`popular`), any (`random`), the user's own old ones (`own`), and items of the surface where the user acts
(`surface`). Every candidate has an embedding, somebody acted on it before, and nobody ended it since, so that none of
that gives the answer away.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from lifeline.core.action_types import bits_of
from lifeline.core.actions import Kind
from lifeline.core.sequence import Sequence
from lifeline.scorer.config import ModelConfig
from lifeline.scorer.errors import TrainingDataError
from lifeline.scorer.features import History, RequestContext, Tokens, tokenise, visits
from lifeline.scorer.settings import Negatives, TrainSettings
from lifeline.scorer.train.request import Request


@dataclass(frozen=True, slots=True)
class Corpus:
    """All users' tokens, user after user, about 100 bytes a token; and the items and requests in them."""

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
    events: tuple[NDArray[np.int64], NDArray[np.uint64]]
    """int64[n] item * n + place in `stream`, ascending, and uint64[n] action types: each item's events by time."""
    births: tuple[NDArray[np.int64], NDArray[np.int64]]
    """int64[m] times and items, in the order of their first sight."""
    births_at: dict[int, tuple[NDArray[np.int64], NDArray[np.int64]]]
    """The same of the items that were first acted on at each surface."""
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
        by_time = np.argsort(every.timestamp_ms, kind="stable")
        stream = (every.timestamp_ms[by_time], item[by_time])
        _, newborn = np.unique(stream[1], return_index=True)
        first_seen_ms, first_surface = stream[0][newborn], every.surface[by_time[newborn]]
        by_birth = np.argsort(first_seen_ms, kind="stable")
        births = (first_seen_ms[by_birth], by_birth)
        born_at = first_surface[by_birth]
        by_item = np.argsort(stream[1], kind="stable")

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
            stream,
            (stream[1][by_item] * len(every) + by_item, every.action_types[by_time[by_item]]),
            births,
            {
                surface: (births[0][born_at == surface], births[1][born_at == surface])
                for surface in np.unique(born_at).tolist()
            },
            user[begins],
            (np.cumsum(lengths) - lengths)[user[begins]],
            np.append(begins, len(every)),
            start[begins],
        )

    def usable(self, settings: TrainSettings) -> NDArray[np.int64]:
        """Return the requests to learn from and to measure on, oldest first, as int64."""
        asked_at = np.repeat(self.timestamp_ms, np.diff(self.acts_from))
        positive = np.logical_or.reduceat(self._known(self.item, asked_at, settings), self.acts_from[:-1])
        history = self.acts_from[:-1] - self.user_from >= settings.min_history
        few = True if settings.max_acts is None else np.diff(self.acts_from) <= settings.max_acts
        from_ms = settings.from_timestamp_ms
        late = True if from_ms is None else self.timestamp_ms >= from_ms
        rows = np.flatnonzero(positive & history & few & late)
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
        chosen = np.flatnonzero(self._known(acted, at, settings))
        most = min(settings.max_positives, settings.candidates - 1)
        if len(chosen) > most:
            chosen = rng.choice(chosen, most, replace=False)
        drawn = self._draw(row, 8 * settings.candidates, settings, rng)
        drawn = drawn[self._known(drawn, at, settings) & ~np.isin(drawn, acted)]
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

    def _known(
        self, item: NDArray[np.int64], at_ms: int | NDArray[np.int64], settings: TrainSettings
    ) -> NDArray[np.bool_]:
        """Return whether an item has an embedding, and somebody acted on it before a time, and did not end it."""
        known = self.embedded[item] & (self.first_seen_ms[item] < at_ms)
        if settings.ending_types:
            ends = np.uint64(bits_of(settings.ending_types))
            keys, action_types = self.events
            past = np.searchsorted(self.stream[0], at_ms, side="left")
            # What is known has an event before that place, so the one found is the item's own.
            newest = np.searchsorted(keys, item * len(keys) + past, side="left") - 1
            known &= action_types[newest] & ends == 0
        return known

    def _draw(self, row: int, least: int, settings: TrainSettings, rng: np.random.Generator) -> NDArray[np.int64]:
        """Return so many items known before a request, or some more, of the configured kinds in turn."""
        shares = settings.negatives
        rounds = -(-least // sum(shares.values()))
        drawn = [self._drawn(kind, row, rounds * share, settings, rng) for kind, share in shares.items()]
        turns = [(np.arange(rounds * share) + 0.5) / share for share in shares.values()]
        return np.concatenate(drawn)[np.argsort(np.concatenate(turns), kind="stable")]

    def _drawn(
        self, kind: Negatives, row: int, count: int, settings: TrainSettings, rng: np.random.Generator
    ) -> NDArray[np.int64]:
        times, items = self.stream
        asked_at = self.timestamp_ms[row]
        past = int(np.searchsorted(times, asked_at))
        match kind:
            case "recent":
                return items[rng.integers(max(0, past - settings.recent_events), past, count)]
            case "older":
                return items[rng.integers(max(0, past - settings.older_events), past, count)]
            case "popular":
                return items[rng.integers(past, size=count)]
            case "random":
                return _born(self.births, int(asked_at), count, rng)
            case "own":
                return self.item[rng.integers(int(self.user_from[row]), int(self.acts_from[row + 1]), count)]
            case "surface":
                acts = self.explicit.surface[self.acts_from[row] : self.acts_from[row + 1]]
                drawn, counts = np.unique(rng.choice(acts, count), return_counts=True)
                found = [
                    _born(self._births_before(int(asked_at), surface), int(asked_at), number, rng)
                    for surface, number in zip(drawn.tolist(), counts.tolist(), strict=True)
                ]
                return rng.permutation(np.concatenate(found))

    def _births_before(self, at_ms: int, surface: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the births at a surface, and where there was none before a time, those at all."""
        births = self.births_at.get(surface, self.births)
        return births if births[0][0] < at_ms else self.births


def _born(
    births: tuple[NDArray[np.int64], NDArray[np.int64]], before_ms: int, count: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Return so many of the items that were born before a time, of which there is one at least."""
    times, items = births
    return items[rng.integers(int(np.searchsorted(times, before_ms)), size=count)]


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
