"""The simulated world is the same for the same seed, and what it claims of itself holds."""

from typing import cast

import numpy as np
import pytest

from lifeline.core.embedding_codec import normalize
from lifeline.core.vocabulary import ActionType, Vocabulary
from lifeline.scorer.evaluate.simulator import (
    CANDIDATES,
    DAY_MS,
    KINDS,
    START_MS,
    SimulatedUser,
    Simulator,
    SimulatorSettings,
    response,
)

SMALL = SimulatorSettings(
    users=40, topics=32, items_per_topic=64, min_actions=400, max_actions=1_000, train_requests=6, test_requests=4
)


@pytest.fixture(scope="module")
def simulator() -> Simulator:
    return Simulator(SMALL)


@pytest.fixture(scope="module")
def users(simulator: Simulator) -> list[SimulatedUser]:
    return list(simulator.users())


def hits(score: np.ndarray, done: np.ndarray) -> float:
    """Return HIT@3: of what was done, the share among a request's first three."""
    top = np.argsort(-score, axis=1)[:, :3]
    among, total = np.take_along_axis(done, top, axis=1).sum(axis=1), done.sum(axis=1)
    return float((among[total > 0] / total[total > 0]).mean())


def columns_of(user: SimulatedUser) -> list[np.ndarray]:
    return cast("list[np.ndarray]", [*user.events, *user.requests])


def test_a_seed_gives_the_same_world_for_any_users_in_any_order(users: list[SimulatedUser]) -> None:
    again = Simulator(SMALL)
    for number in (17, 3, 39):
        other = again.user(number)
        assert other.user_id == users[number].user_id
        for ours, theirs in zip(columns_of(users[number]), columns_of(other), strict=True):
            assert ours.dtype == theirs.dtype
            assert ours.tobytes() == theirs.tobytes()
    other_world = Simulator(SMALL.model_copy(update={"seed": 1}))
    assert other_world.user(3).events.item.tobytes() != users[3].events.item.tobytes()


def test_items_are_distinct_and_lie_about_their_topics_centre(simulator: Simulator) -> None:
    items = simulator.items
    assert len(np.unique(items.item_id)) == len(items.item_id) == 32 * 64
    assert np.allclose(np.linalg.norm(items.vector, axis=1), 1)
    assert (normalize(items.embedding) * items.vector).sum(axis=1).min() > 0.99
    nearest = (items.vector @ items.centre.T).argmax(axis=1)
    assert (nearest == items.topic).mean() > 0.95


def test_events_are_in_order_and_in_the_words_of_the_vocabulary(
    simulator: Simulator, users: list[SimulatedUser]
) -> None:
    vocabulary = simulator.vocabulary
    end_ms = START_MS + (SMALL.days + 1) * DAY_MS
    for user in users:
        events = user.events
        assert (np.diff(events.timestamp_ms) >= 0).all()
        assert START_MS <= events.timestamp_ms[0] <= events.timestamp_ms[-1] < end_ms
        assert vocabulary.known_action_types[events.action_type].all()
        assert vocabulary.known_surfaces[events.surface].all()
    every = np.concatenate([user.events.action_type for user in users])
    counts = {name: int((every == vocabulary.action_types[name].id).sum()) for name in (*KINDS, "impression")}
    assert min(counts.values()) > 0
    assert 0.4 < counts["impression"] / sum(counts[name] for name in KINDS) < 0.8


def test_a_request_sees_nothing_of_its_own_session_and_its_candidates_differ(users: list[SimulatedUser]) -> None:
    for user in users:
        requests = user.requests
        assert requests.item.shape == (len(requests.timestamp_ms), CANDIDATES)
        assert requests.done.shape == requests.oracle.shape == (*requests.item.shape, len(KINDS))
        assert all(len(set(row)) == CANDIDATES for row in requests.item.tolist())
        # A user with few sessions has fewer.
        assert requests.is_test.sum() <= SMALL.test_requests
        assert (~requests.is_test).sum() <= SMALL.train_requests
        day = (requests.timestamp_ms - START_MS) // DAY_MS
        assert (day[requests.is_test] >= SMALL.test_from_day).all()
        assert (day[~requests.is_test] >= SMALL.train_from_day).all()
        assert (day[~requests.is_test] < SMALL.test_from_day).all()
        # A session's first event comes after the request.
        assert not np.isin(requests.timestamp_ms, user.events.timestamp_ms).any()


def test_the_oracle_knows_how_likely_everything_is(users: list[SimulatedUser]) -> None:
    done = np.concatenate([user.requests.done for user in users])
    oracle = np.concatenate([user.requests.oracle for user in users])
    for number, kind in enumerate(KINDS):
        likely, happened = oracle[..., number].ravel(), done[..., number].ravel()
        assert abs(likely.mean() - happened.mean()) < 4 * np.sqrt(likely.mean() / len(likely)), kind
        # Calibrated where it is sure and where it is not.
        sure = likely > np.quantile(likely, 0.9)
        assert abs(likely[sure].mean() - happened[sure].mean()) < 4 * np.sqrt(likely[sure].mean() / sure.sum()), kind
    repin = KINDS.index("repin")
    by_oracle = hits(oracle[..., repin], done[..., repin])
    by_chance = hits(np.random.default_rng(0).random(oracle.shape[:2]), done[..., repin])
    assert by_oracle > 2 * by_chance


def test_what_is_done_depends_on_session_interest_taste_and_dislike() -> None:
    yes, no, usual = np.array([True]), np.array([False]), np.array([0.6])
    plain = response(no, no, no, usual, no)
    for better in ((yes, no, no, usual, no), (no, yes, no, usual, no), (no, no, yes, usual, no)):
        assert (response(*better) > plain)[0, :3].all()
        assert response(*better)[0, 3] < plain[0, 3]
    assert (response(no, no, no, np.array([0.8]), no) > plain)[0, :3].all()
    disliked = response(no, no, no, usual, yes)
    assert (disliked < plain)[0, :3].all()
    assert disliked[0, 3] > 5 * plain[0, 3]


def test_another_vocabulary_must_have_the_words() -> None:
    with pytest.raises(ValueError, match=r"no action type 'repin'.*add it"):
        Simulator(SMALL, Vocabulary(action_types={"view": ActionType(id=1)}))
