"""The simulator: users whose interests sleep for months and wake, and requests whose right answer is known.

Items belong to topics, and an item's embedding lies about its topic's centre. A user has

- 8 to 12 **interests**: topics that are active for a part of each of their periods (80 to 240 days), and asleep for the
  rest of it;
- a **short-term topic**, another one every two weeks or so;
- 3 **disliked** topics, and in every topic a **taste**: the point of it that the user likes best.

Actions come in sessions on one or two topics: the short-term one, an active interest, any interest, or any topic. For
each action the user takes the best by taste of four items. A session has impressions too, and now and then the user
hides items of a disliked topic.

A **request** is made when a session begins, with 32 candidates: some of the session's topics, and some of interests
that are active or asleep, of short-term topics that are current or over, of disliked topics, and any. What the user
does with a candidate is drawn from probabilities (`response`) that depend on whether its topic is one of the
session's, an interest, and current (an active interest, or the short-term topic), on the taste, and on dislike. The
**oracle** knows the user's state at the moment and how candidates are picked, but not the session's topics: it ranks by
the same probabilities, averaged over what the session's topics may be when it sees the one candidate. No model that
looks at one candidate at a time can do better.

Every user is drawn from a generator of its own, seed_torch by the simulator's seed and the user's number: the same seed
gives the same bytes, for any subset of users, in any order.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from lifeline.core.sequence import EMBEDDING_DIM
from lifeline.core.vocabulary import Vocabulary
from lifeline.scorer.evaluate.simulated_items import SPREAD, Floats, Ints, Items, make_items

DAY_MS = 86_400_000
START_MS = 1_672_531_200_000
"""2023-01-01T00:00:00Z: the first day of every simulation."""
KINDS = ("repin", "click", "closeup", "hide")
"""What a user may do with a candidate, in the order of the columns of `Requests`."""
CHOICES_PER_ACTION = 4
"""Items among which a user chooses for each action."""
CANDIDATE_MIX = {
    "session": 5,
    "active": 3,
    "dormant": 5,
    "short_term": 3,
    "expired_short_term": 4,
    "disliked": 3,
    "any": 9,
}
"""Candidates of a request by where they come from."""
CANDIDATES = sum(CANDIDATE_MIX.values())

_SHORT_TERM, _ACTIVE, _INTEREST, _ANY = 0.30, 0.35, 0.30, 0.05
_TWO_TOPICS = 0.4
_HIDING_SESSIONS = 0.12
_ACTIONS_PER_SESSION, _IMPRESSIONS_PER_SESSION = 20, 12
_SHORT_TERM_DAYS = 14.0
_PAUSE_MS = 20_000
# Logits of what is done with a candidate: always; for a topic of the session, an interest, a current topic; for each
# unit by which the taste is above the usual; and for a disliked topic. Chosen so that rankings that need no training
# (greatest cosine, mean of the top 64, oracle) come out as in the prototype that the benchmark's bars were made with.
_RESPONSE = np.array(
    [
        (-4.4, 2.0, 1.1, 0.9, 8.1, -2.0),
        (-3.8, 1.8, 1.0, 0.8, 6.5, -2.0),
        (-3.0, 1.3, 0.7, 0.6, 3.9, -1.0),
        (-3.4, -0.6, -0.6, -0.3, -3.0, 2.6),
    ]
)
_USUAL_LIKING = 0.6


class SimulatorSettings(BaseModel):
    """How many, for how long, and which of the possible worlds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: Annotated[int, Field(ge=0, description="which world; the same seed gives the same bytes")] = 0
    users: Annotated[int, Field(ge=1, le=1_000_000, description="users")] = 1_500
    topics: Annotated[int, Field(ge=16, le=4_096, description="topics")] = 128
    items_per_topic: Annotated[int, Field(ge=8, le=4_096, description="items of each topic")] = 256
    days: Annotated[int, Field(ge=60, le=3_650, description="how long the histories are")] = 730
    min_actions: Annotated[int, Field(ge=20, description="of a user, explicit ones")] = 2_000
    max_actions: Annotated[int, Field(le=65_536, description="of a user, explicit ones")] = 16_000
    train_from_day: Annotated[int, Field(ge=0, description="the first day with requests to train on")] = 200
    test_from_day: Annotated[int, Field(ge=1, description="the first day with requests to test on")] = 660
    train_requests: Annotated[int, Field(ge=0, description="of a user, before the test")] = 8
    test_requests: Annotated[int, Field(ge=0, description="of a user, from then on")] = 4


class Events(NamedTuple):
    """A user's n events, oldest first."""

    timestamp_ms: Ints
    """int64[n]."""
    item: Ints
    """int64[n]: rows of the items."""
    action_type: NDArray[np.uint8]
    """uint8[n]: ids of the vocabulary."""
    surface: NDArray[np.uint8]
    """uint8[n]: ids of the vocabulary; one a session."""


class Requests(NamedTuple):
    """A user's r requests, oldest first, and c = CANDIDATES candidates of each."""

    timestamp_ms: Ints
    """int64[r]: before every event of the request's own session."""
    surface: NDArray[np.uint8]
    """uint8[r]."""
    item: Ints
    """int64[r, c]: rows of the items, all different in a request."""
    done: NDArray[np.bool_]
    """bool[r, c, 4]: whether the user did each of KINDS."""
    oracle: Floats
    """float64[r, c, 4]: their probabilities for who knows the user's state, and not the session's topics."""
    is_test: NDArray[np.bool_]
    """bool[r]."""


class SimulatedUser(NamedTuple):
    """One user's history and requests."""

    user_id: str
    events: Events
    requests: Requests


@dataclass(frozen=True, slots=True)
class _State:
    """What a user is like; k interests, and s short-term topics one after the other."""

    interest: Ints
    period_ms: Floats
    phase: Floats
    duty: Floats
    disliked: Ints
    taste: Floats
    """float64[topics, 32], of length 1."""
    short_term: Ints
    short_term_until_ms: Floats

    def active(self, at_ms: Floats) -> NDArray[np.bool_]:
        """Return bool[t, k]: whether each interest is active at each time."""
        place = (at_ms[:, None] / self.period_ms + self.phase) % 1.0
        return place < self.duty

    def short_term_at(self, at_ms: Floats) -> Ints:
        """Return int64[t]: which of the short-term topics is current, as its place among them."""
        return np.minimum(np.searchsorted(self.short_term_until_ms, at_ms), len(self.short_term) - 1)

    def current(self, at_ms: Floats, topics: int) -> NDArray[np.bool_]:
        """Return bool[t, topics]: which topics are active interests or the short-term one at each time."""
        found = np.zeros((len(at_ms), topics), np.bool_)
        found[:, self.interest] = self.active(at_ms)
        found[np.arange(len(at_ms)), self.short_term[self.short_term_at(at_ms)]] = True
        return found

    def topic_share(self, at_ms: Floats, topics: int) -> Floats:
        """Return float64[t, topics]: how likely a topic of a session at each time is each topic."""
        active = self.active(at_ms)
        share = np.full((len(at_ms), topics), _ANY / topics)
        rows = np.arange(len(at_ms))
        share[rows, self.short_term[self.short_term_at(at_ms)]] += _SHORT_TERM
        share[:, self.interest] += _INTEREST / len(self.interest)
        awake = active.sum(axis=1, keepdims=True)
        # Where nothing is active, any interest stands in for the active ones.
        weights = np.where(awake > 0, active / np.maximum(awake, 1), 1 / len(self.interest))
        share[:, self.interest] += _ACTIVE * weights
        return share


class Simulator:
    """A world: its items, and as many users as are asked for."""

    def __init__(self, settings: SimulatorSettings, vocabulary: Vocabulary | None = None) -> None:
        """Draw the items. Raises ValueError when the vocabulary lacks a name of KINDS, or impressions."""
        self.settings = settings
        self.vocabulary = vocabulary or Vocabulary()
        missing = [name for name in (*KINDS, "impression") if name not in self.vocabulary.action_types]
        if missing:
            raise ValueError(
                f"the vocabulary has no action type {missing[0]!r}, which simulated users have: add it, or use the "
                "default vocabulary"
            )
        self._type = {name: self.vocabulary.action_types[name].id for name in (*KINDS, "impression")}
        self._surfaces = np.array(sorted(self.vocabulary.surface_names) or [0], np.uint8)
        self.items = make_items(settings.seed, settings.topics, settings.items_per_topic)

    def users(self) -> Iterator[SimulatedUser]:
        """Yield every user, by number."""
        for number in range(self.settings.users):
            yield self.user(number)

    def user(self, number: int) -> SimulatedUser:
        """Return one user."""
        rng = np.random.default_rng([self.settings.seed, 1, number])
        state = self._make_state(rng)
        starts, topics = self._sessions(rng, state)
        surface = rng.choice(self._surfaces, len(starts))
        events = self._events(rng, state, starts, topics, surface)
        requests = self._requests(rng, state, starts, topics, surface)
        return SimulatedUser(f"user{number:06d}", events, requests)

    # -- who the user is ---------------------------------------------------------------------------------------

    def _make_state(self, rng: np.random.Generator) -> _State:
        topics = self.settings.topics
        interests = int(rng.integers(8, 13))
        chosen = rng.permutation(topics)[: interests + 3]
        taste = self.items.centre + SPREAD / np.sqrt(EMBEDDING_DIM) * rng.standard_normal((topics, EMBEDDING_DIM))
        taste /= np.linalg.norm(taste, axis=1, keepdims=True)
        changes = int(3 * self.settings.days / _SHORT_TERM_DAYS) + 3
        lengths = rng.exponential(_SHORT_TERM_DAYS * DAY_MS, changes)
        return _State(
            interest=chosen[:interests],
            period_ms=rng.uniform(80, 240, interests) * DAY_MS,
            phase=rng.random(interests),
            duty=rng.uniform(0.1, 0.25, interests),
            disliked=chosen[interests:],
            taste=taste,
            short_term=rng.integers(0, topics, changes),
            short_term_until_ms=START_MS + np.cumsum(lengths),
        )

    # -- what the user does ------------------------------------------------------------------------------------

    def _sessions(self, rng: np.random.Generator, state: _State) -> tuple[Ints, Ints]:
        """Return int64[s] starts, ascending, and int64[s, 2] topics (the same one twice for sessions on one)."""
        settings = self.settings
        actions = np.clip(rng.lognormal(8.4, 0.6), settings.min_actions, settings.max_actions)
        count = max(1, round(actions / _ACTIONS_PER_SESSION))
        starts = np.sort(START_MS + (rng.random(count) * settings.days * DAY_MS).astype(np.int64))
        share = np.cumsum(state.topic_share(starts.astype(np.float64), settings.topics), axis=1)
        marks = rng.random((count, 2)) * share[:, -1:]
        topics = np.stack([(share < marks[:, [which]]).sum(axis=1) for which in (0, 1)], axis=1)
        topics[:, 1] = np.where(rng.random(count) < _TWO_TOPICS, topics[:, 1], topics[:, 0])
        return starts, topics

    def _events(
        self, rng: np.random.Generator, state: _State, starts: Ints, topics: Ints, surface: NDArray[np.uint8]
    ) -> Events:
        acts = 1 + rng.poisson(_ACTIONS_PER_SESSION - 1, len(starts))
        session = np.repeat(np.arange(len(starts)), acts)
        topic = topics[session, rng.integers(0, 2, len(session))]
        item = self._chosen(rng, state, topic)
        liking = _taste_of(state, self.items, item)
        kinds = np.array([self._type["closeup"], self._type["click"], self._type["repin"]])
        # The better it is, the likelier it is kept.
        keen = liking + 0.15 * rng.standard_normal(len(item))
        types = kinds[np.digitize(keen, (0.45, 0.65))]

        hiding = np.repeat(np.flatnonzero(rng.random(len(starts)) < _HIDING_SESSIONS), 2)
        hidden = self.items.draw(rng, rng.choice(state.disliked, len(hiding)))

        shown = np.repeat(np.arange(len(starts)), _IMPRESSIONS_PER_SESSION)
        mark = rng.random(len(shown))
        seen_topic = np.select(
            [mark < 0.35, mark < 0.50],
            [topics[shown, rng.integers(0, 2, len(shown))], rng.choice(state.disliked, len(shown))],
            rng.integers(0, self.settings.topics, len(shown)),
        )
        seen = self.items.draw(rng, seen_topic)

        every = np.concatenate([session, hiding, shown])
        times = starts[every] + 1 + (rng.random(len(every)) * _PAUSE_MS * _ACTIONS_PER_SESSION).astype(np.int64)
        columns = (
            times,
            np.concatenate([item, hidden, seen]),
            np.concatenate(
                [
                    types,
                    np.full(len(hiding), self._type["hide"]),
                    np.full(len(shown), self._type["impression"]),
                ]
            ).astype(np.uint8),
            surface[every],
        )
        order = np.argsort(times, kind="stable")
        return Events(columns[0][order], columns[1][order], columns[2][order], columns[3][order])

    def _chosen(self, rng: np.random.Generator, state: _State, topic: Ints) -> Ints:
        """Return for each topic the best by taste of a few items."""
        proposed = self.items.draw(rng, np.repeat(topic[:, None], CHOICES_PER_ACTION, axis=1))
        liking = np.stack([_taste_of(state, self.items, proposed[:, at]) for at in range(CHOICES_PER_ACTION)], axis=1)
        chosen: Ints = proposed[np.arange(len(topic)), liking.argmax(axis=1)]
        return chosen

    # -- what is asked -----------------------------------------------------------------------------------------

    def _requests(
        self, rng: np.random.Generator, state: _State, starts: Ints, topics: Ints, surface: NDArray[np.uint8]
    ) -> Requests:
        settings = self.settings
        day = (starts - START_MS) // DAY_MS
        train = np.flatnonzero((day >= settings.train_from_day) & (day < settings.test_from_day))
        test = np.flatnonzero(day >= settings.test_from_day)
        chosen = np.concatenate(
            [
                np.sort(rng.permutation(train)[: settings.train_requests]),
                np.sort(rng.permutation(test)[: settings.test_requests]),
            ]
        )
        at_ms = starts[chosen].astype(np.float64)
        item = (
            np.stack([self._candidates(rng, state, at, own) for at, own in zip(at_ms, topics[chosen], strict=True)])
            if len(chosen)
            else np.empty((0, CANDIDATES), np.int64)
        )
        topic = self.items.topic[item]
        user = _Affinity(
            interest=np.isin(topic, state.interest),
            current=np.take_along_axis(state.current(at_ms, settings.topics), topic, axis=1),
            liking=_taste_of(state, self.items, item),
            disliked=np.isin(topic, state.disliked),
        )
        in_session = (topic[:, :, None] == topics[chosen][:, None, :]).any(axis=2)
        likely = response(in_session, *user)
        known = np.take_along_axis(self._in_session_when_seen(state, at_ms), topic, axis=1)[:, :, None]
        everywhere, nowhere = np.ones_like(in_session), np.zeros_like(in_session)
        oracle = known * response(everywhere, *user) + (1 - known) * response(nowhere, *user)
        return Requests(
            timestamp_ms=starts[chosen],
            surface=surface[chosen],
            item=item,
            done=rng.random(likely.shape) < likely,
            oracle=oracle,
            is_test=day[chosen] >= settings.test_from_day,
        )

    def _pools(self, state: _State, at_ms: float) -> dict[str, Ints]:
        """Return the topics that candidates come from, but for the session's own."""
        times = np.array([at_ms])
        active = state.active(times)[0]
        current = int(state.short_term_at(times)[0])
        awake, asleep = state.interest[active], state.interest[~active]
        over = state.short_term[max(0, current - 6) : current]
        return {
            # Where nobody is of a sort, any interest stands in.
            "active": awake if len(awake) else state.interest,
            "dormant": asleep if len(asleep) else state.interest,
            "short_term": state.short_term[current : current + 1],
            "expired_short_term": over if len(over) else state.interest,
            "disliked": state.disliked,
            "any": np.arange(self.settings.topics),
        }

    def _in_session_when_seen(self, state: _State, at_ms: Floats) -> Floats:
        """Return float64[r, topics]: how likely a candidate's topic is one of the session's, when one is seen."""
        share = state.topic_share(at_ms, self.settings.topics)
        # Both topics of the session, one of two, or neither: a candidate "of the session" is of it always, or half.
        both = (1 - _TWO_TOPICS) * share + _TWO_TOPICS * share**2
        half = 2 * _TWO_TOPICS * share * (1 - share)
        otherwise = np.zeros_like(share)
        for row, at in enumerate(at_ms):
            for name, pool in self._pools(state, float(at)).items():
                np.add.at(otherwise[row], pool, CANDIDATE_MIX[name] / CANDIDATES / len(pool))
        own = CANDIDATE_MIX["session"] / CANDIDATES
        seen_in = both * (otherwise + own) + half * (otherwise + own / 2)
        inside: Floats = seen_in / (seen_in + (1 - both - half) * otherwise)
        return inside

    def _candidates(self, rng: np.random.Generator, state: _State, at_ms: float, own: Ints) -> Ints:
        """Return the rows of a request's candidates, all different, in random order."""
        topics = self.settings.topics
        pools = {"session": own, **self._pools(state, at_ms)}
        wanted = np.concatenate([rng.choice(pools[name], count) for name, count in CANDIDATE_MIX.items()])
        rows = self.items.draw(rng, wanted)
        while len(np.unique(rows)) < len(rows):
            _, first = np.unique(rows, return_index=True)
            again = np.setdiff1d(np.arange(len(rows)), first)
            rows[again] = self.items.draw(rng, wanted[again])
            # Of a small topic there may be no other left.
            wanted[again] = rng.integers(0, topics, len(again))
        return rng.permutation(rows)


class _Affinity(NamedTuple):
    """How a user stands to candidates, whatever the session; all of one shape."""

    interest: NDArray[np.bool_]
    current: NDArray[np.bool_]
    liking: Floats
    disliked: NDArray[np.bool_]


def response(
    in_session: NDArray[np.bool_],
    interest: NDArray[np.bool_],
    current: NDArray[np.bool_],
    liking: Floats,
    disliked: NDArray[np.bool_],
) -> Floats:
    """Return float64[..., 4]: how likely a user does each of KINDS with candidates of any shape.

    Whether the item's topic is one of the session's, an interest, current and disliked; `liking` is the cosine of the
    item and the user's taste in its topic.
    """
    columns = [np.ones_like(liking), in_session, interest, current, liking - _USUAL_LIKING, disliked]
    features = np.stack([column.astype(float) for column in columns], axis=-1)
    likely: Floats = 1 / (1 + np.exp(-(features @ _RESPONSE.T)))
    return likely


def _taste_of(state: _State, items: Items, item: Ints) -> Floats:
    """Return the cosine of each item and the user's taste in its topic."""
    cosine: Floats = np.einsum("...d,...d->...", items.vector[item], state.taste[items.topic[item]])
    return cosine
