"""Corpus: point-in-time correct training requests, built from histories.

A request is made when a visit (of events of both kinds) begins, and reads only events before it. Its candidates are
items that the user acted on in the visit, and negatives. Negatives are drawn, in configurable proportions, from
the newest events of all users (`recent`, and `older` over a longer time), by popularity (`popular`), uniformly
(`random`), from the user's earlier items (`own`), and from the items of the surface that the user acts on (`surface`).
Every candidate has an embedding, had an action before the request, and was not ended since, so that none of these
properties reveals the answer.
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
from lifeline.scorer.features import History, RequestContext, Tokens, tokenize, visits
from lifeline.scorer.settings import Negatives, TrainSettings
from lifeline.scorer.train.request import Request


@dataclass(frozen=True, slots=True)
class Corpus:
    """All users' tokens, user after user, about 100 bytes per token; and their items and requests."""

    config: ModelConfig
    explicit: Tokens
    impressions: Tokens
    impressions_from: NDArray[np.int64]
    """int64[users + 1]: row of each user's first impression."""
    item: NDArray[np.int64]
    """int64[n]: the item of each explicit token."""
    item_id: NDArray[np.uint64]
    """uint64[m]: ids of the items."""
    embedding: NDArray[np.int8]
    """int8[m, 32]: embeddings of the items; zeros if unknown."""
    has_embedding: NDArray[np.bool_]
    """bool[m]: whether the item has an embedding."""
    first_seen_ms: NDArray[np.int64]
    """int64[m]: time of the first action on the item."""
    stream: tuple[NDArray[np.int64], NDArray[np.int64]]
    """int64[n] times and int64[n] items of all users' explicit tokens, oldest first."""
    events: tuple[NDArray[np.int64], NDArray[np.uint64]]
    """int64[n] keys, item * n + row of `stream`, ascending; and uint64[n] action types: each item's events by time."""
    appearances: tuple[NDArray[np.int64], NDArray[np.int64]]
    """int64[m] times of the items' first actions, ascending, and int64[m] the items."""
    appearances_by_surface: dict[int, tuple[NDArray[np.int64], NDArray[np.int64]]]
    """By surface: `appearances` of the items whose first action was on it."""
    user: NDArray[np.int64]
    """int64[r]: the user of each request."""
    user_from: NDArray[np.int64]
    """int64[r]: row of the user's first explicit token."""
    visit_from: NDArray[np.int64]
    """int64[r + 1]: row of the first explicit token of the request's visit, which ends at the next entry."""
    timestamp_ms: NDArray[np.int64]
    """int64[r]: time of the request."""

    @classmethod
    def of(cls, histories: Iterable[Mapping[Kind, Sequence]], config: ModelConfig) -> Self:
        """Read every user's sequences, with all columns; raises TrainingDataError if there is no explicit event."""
        explicit, impressions, starts = [], [], []
        for sequences in histories:
            tokens, ignored = tokenize(sequences, config.visit_gap_ms)
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
        _, first_events = np.unique(stream[1], return_index=True)
        first_seen_ms, first_surface = stream[0][first_events], every.surface[by_time[first_events]]
        by_appearance = np.argsort(first_seen_ms, kind="stable")
        appearances = (first_seen_ms[by_appearance], by_appearance)
        surfaces_of_appearance = first_surface[by_appearance]
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
            appearances,
            {
                surface: (
                    appearances[0][surfaces_of_appearance == surface],
                    appearances[1][surfaces_of_appearance == surface],
                )
                for surface in np.unique(surfaces_of_appearance).tolist()
            },
            user[begins],
            (np.cumsum(lengths) - lengths)[user[begins]],
            np.append(begins, len(every)),
            start[begins],
        )

    def usable_requests(self, settings: TrainSettings) -> NDArray[np.int64]:
        """Return the requests to train and measure on, int64, oldest first."""
        request_ms = np.repeat(self.timestamp_ms, np.diff(self.visit_from))
        positive = np.logical_or.reduceat(self._known(self.item, request_ms, settings), self.visit_from[:-1])
        history = self.visit_from[:-1] - self.user_from >= settings.min_history
        is_short = True if settings.max_acts is None else np.diff(self.visit_from) <= settings.max_acts
        from_ms = settings.from_timestamp_ms
        is_late = True if from_ms is None else self.timestamp_ms >= from_ms
        rows = np.flatnonzero(positive & history & is_short & is_late)
        return rows[np.argsort(self.timestamp_ms[rows], kind="stable")]

    def request(self, row: int, settings: TrainSettings, rng: np.random.Generator) -> Request:
        """Build one request; its random draws depend on `rng` alone."""
        at = int(self.timestamp_ms[row])
        user, begin = int(self.user[row]), int(self.user_from[row])
        acts = slice(int(self.visit_from[row]), int(self.visit_from[row + 1]))
        shown = slice(int(self.impressions_from[user]), int(self.impressions_from[user + 1]))
        impressions = self.impressions.take(shown)
        history = History.of(
            self.explicit.take(slice(begin, acts.start)),
            impressions.take(slice(0, int(np.searchsorted(impressions.timestamp_ms, at)))),
            self.config,
        )
        visit_items, inverse = np.unique(self.item[acts], return_inverse=True)
        action_types = np.zeros(len(visit_items), np.uint64)
        np.bitwise_or.at(action_types, inverse, self.explicit.action_types[acts])
        positives = np.flatnonzero(self._known(visit_items, at, settings))
        most = min(settings.max_positives, settings.candidates - 1)
        if len(positives) > most:
            positives = rng.choice(positives, most, replace=False)
        drawn = self._draw(row, 8 * settings.candidates, settings, rng)
        drawn = drawn[self._known(drawn, at, settings) & ~np.isin(drawn, visit_items)]
        drawn = drawn[np.sort(np.unique(drawn, return_index=True)[1])][: settings.candidates - len(positives)]
        item = np.concatenate([visit_items[positives], drawn])
        return Request(
            user,
            history,
            # Histories do not contain the surface on which a visit's items were shown: it is unknown.
            RequestContext(at),
            self.item_id[item],
            self.embedding[item],
            np.concatenate([action_types[positives], np.zeros(len(drawn), np.uint64)]),
        )

    def popularity(self, item_id: NDArray[np.uint64], until_ms: int) -> NDArray[np.float32]:
        """Return the number of actions of all users on items of the corpus up to a time, float32[c]."""
        times, items = self.stream
        counts = np.bincount(items[: np.searchsorted(times, until_ms, side="right")], minlength=len(self.item_id))
        return counts[np.searchsorted(self.item_id, item_id)].astype(np.float32)

    def _known(
        self, item: NDArray[np.int64], at_ms: int | NDArray[np.int64], settings: TrainSettings
    ) -> NDArray[np.bool_]:
        """Return whether each item has an embedding, had an action before a time, and was not ended by then."""
        known = self.has_embedding[item] & (self.first_seen_ms[item] < at_ms)
        if settings.ending_types:
            ends = np.uint64(bits_of(settings.ending_types))
            keys, action_types = self.events
            past = np.searchsorted(self.stream[0], at_ms, side="left")
            # A known item has an event before `past`, so the event found is the item's own.
            newest = np.searchsorted(keys, item * len(keys) + past, side="left") - 1
            known &= action_types[newest] & ends == 0
        return known

    def _draw(self, row: int, least: int, settings: TrainSettings, rng: np.random.Generator) -> NDArray[np.int64]:
        """Return at least `least` items that had an action before a request, of the configured kinds in turn."""
        shares = settings.negatives
        rounds = -(-least // sum(shares.values()))
        drawn = [self._draw_of_kind(kind, row, rounds * share, settings, rng) for kind, share in shares.items()]
        order_keys = [(np.arange(rounds * share) + 0.5) / share for share in shares.values()]
        return np.concatenate(drawn)[np.argsort(np.concatenate(order_keys), kind="stable")]

    def _draw_of_kind(
        self, kind: Negatives, row: int, count: int, settings: TrainSettings, rng: np.random.Generator
    ) -> NDArray[np.int64]:
        times, items = self.stream
        request_ms = self.timestamp_ms[row]
        past = int(np.searchsorted(times, request_ms))
        match kind:
            case "recent":
                return items[rng.integers(max(0, past - settings.recent_events), past, count)]
            case "older":
                return items[rng.integers(max(0, past - settings.older_events), past, count)]
            case "popular":
                return items[rng.integers(past, size=count)]
            case "random":
                return _draw_appeared(self.appearances, int(request_ms), count, rng)
            case "own":
                return self.item[rng.integers(int(self.user_from[row]), int(self.visit_from[row + 1]), count)]
            case "surface":
                acts = self.explicit.surface[self.visit_from[row] : self.visit_from[row + 1]]
                drawn, counts = np.unique(rng.choice(acts, count), return_counts=True)
                draws = [
                    _draw_appeared(self._appearances_before(int(request_ms), surface), int(request_ms), number, rng)
                    for surface, number in zip(drawn.tolist(), counts.tolist(), strict=True)
                ]
                return rng.permutation(np.concatenate(draws))

    def _appearances_before(self, at_ms: int, surface: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the appearances on a surface; those on all surfaces if it had none before the time."""
        appearances = self.appearances_by_surface.get(surface, self.appearances)
        return appearances if appearances[0][0] < at_ms else self.appearances


def _draw_appeared(
    appearances: tuple[NDArray[np.int64], NDArray[np.int64]], before_ms: int, count: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Return `count` random items that appeared before a time; at least one did."""
    times, items = appearances
    return items[rng.integers(int(np.searchsorted(times, before_ms)), size=count)]


def _visit_start(sequences: Mapping[Kind, Sequence], tokens: Tokens, gap_ms: int) -> NDArray[np.int64]:
    """Return the start of each explicit token's visit; here visits are runs of events of both kinds."""
    times = [np.empty(0, np.int64)]
    times += [events.timestamp_ms for events in sequences.values() if events.timestamp_ms is not None]
    every = np.sort(np.concatenate(times))
    if len(every) == 0:
        return every
    visit = visits(every, gap_ms)
    starts = every[np.flatnonzero(np.diff(visit, prepend=-1))]
    return starts[np.searchsorted(starts, tokens.timestamp_ms, side="right") - 1]
