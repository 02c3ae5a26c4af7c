import numpy as np
import pytest

from lifeline.scorer.config import ModelConfig
from lifeline.scorer.evaluate.simulated_requests import requests_of
from lifeline.scorer.evaluate.simulator import KINDS, SimulatedUser, Simulator, SimulatorSettings
from lifeline.scorer.evaluate.tasks import cosine_rankings
from lifeline.scorer.train.request import Request, labels
from tests.support.scorer_factories import HEADS, tokens

CONFIG = ModelConfig(heads=HEADS)


@pytest.fixture(scope="module")
def simulator() -> Simulator:
    return Simulator(SimulatorSettings(users=3, min_actions=100, max_actions=400))


@pytest.fixture(scope="module")
def user(simulator: Simulator) -> SimulatedUser:
    return simulator.user(1)


def requests(simulator: Simulator, user: SimulatedUser, *, test: bool) -> list[Request]:
    return list(requests_of(simulator, user, 1, CONFIG, test=test))


def test_a_request_has_the_history_before_it_and_the_candidates_of_the_simulator(
    simulator: Simulator, user: SimulatedUser
) -> None:
    found = [*requests(simulator, user, test=False), *requests(simulator, user, test=True)]
    assert len(found) == len(user.requests.timestamp_ms)
    assert [request.context.timestamp_ms for request in found] == user.requests.timestamp_ms.tolist()
    for row, request in enumerate(found):
        at = request.context.timestamp_ms
        assert request.user == 1
        assert (request.history.explicit.timestamp_ms < at).all()
        assert (request.history.impressions.timestamp_ms < at).all()
        explicit = user.events.timestamp_ms[(user.events.action_type != 5) & (user.events.timestamp_ms < at)]
        assert request.history.explicit.timestamp_ms[-1] == explicit[-1]
        np.testing.assert_array_equal(request.item_id, simulator.items.item_id[user.requests.item[row]])
        by_kind = dict(zip([head.name for head in HEADS], labels(request.action_types, HEADS).T, strict=True))
        for place, kind in enumerate(KINDS):
            np.testing.assert_array_equal(by_kind[kind] > 0, user.requests.done[row, :, place])


def test_the_oracle_is_the_utility_of_what_is_likely(simulator: Simulator, user: SimulatedUser) -> None:
    (first, *_) = requests(simulator, user, test=False)
    utility = {head.name: head.utility for head in HEADS}
    expected = sum(utility[kind] * user.requests.oracle[0, :, place] for place, kind in enumerate(KINDS))
    np.testing.assert_allclose(first.rankings["oracle"], expected, rtol=1e-5)


def test_rankings_by_cosine() -> None:
    rng = np.random.default_rng(0)
    explicit = tokens(rng, 100, unknown=0)
    candidates = explicit.embedding[[0, 99]]
    found = cosine_rankings(explicit, candidates)

    def unit(rows: np.ndarray[tuple[int, ...], np.dtype[np.int8]]) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
        wide = rows.astype(np.float64)
        return wide / np.linalg.norm(wide, axis=1, keepdims=True)  # type: ignore[no-any-return]

    cosine = unit(candidates) @ unit(explicit.embedding).T
    np.testing.assert_allclose(found["max_cosine"], [1, 1], rtol=1e-6)
    np.testing.assert_allclose(found["mean_cosine"], cosine.mean(axis=1), atol=1e-6)
    np.testing.assert_allclose(found["max_cosine_last_10"], cosine[:, -10:].max(axis=1), atol=1e-6)
    np.testing.assert_allclose(found["mean_cosine_last_10"], cosine[:, -10:].mean(axis=1), atol=1e-6)
    np.testing.assert_allclose(found["mean_of_top_64"], np.sort(cosine)[:, -64:].mean(axis=1), atol=1e-6)


def test_rankings_of_an_empty_history_are_all_equal() -> None:
    rng = np.random.default_rng(1)
    found = cosine_rankings(tokens(rng, 0), tokens(rng, 3).embedding)
    assert all((column == 0).all() for column in found.values())
