from collections import Counter

import numpy as np
import pytest
from numpy.typing import NDArray

from lifeline.scorer.config import ModelConfig
from lifeline.scorer.errors import ExperimentError
from lifeline.scorer.evaluate.simulated_requests import requests_of
from lifeline.scorer.evaluate.simulator import KINDS, Simulator, SimulatorSettings
from lifeline.scorer.evaluate.tasks import cosine_rankings
from lifeline.scorer.experiment import CONTROL, SUSPICIOUS_P, Arm, arm_of, lift_of, sample_ratio_p
from lifeline.scorer.settings import ScorerSettings
from tests.support.scorer_factories import HEADS

HALVES = {CONTROL: Arm(version="1", share=0.5), "new": Arm(version="2", share=0.5)}
REPETITIONS = 200


def test_users_keep_their_arms_and_arms_get_their_shares() -> None:
    arms = {CONTROL: Arm(version="1", share=0.2), "new": Arm(version="2", share=0.3)}
    users = [f"user{number}" for number in range(20_000)]
    first = [arm_of("colours", user, arms) for user in users]
    assert first == [arm_of("colours", user, dict(reversed(arms.items()))) for user in users]
    counts = Counter(first)
    assert counts[CONTROL] == pytest.approx(4_000, abs=200)
    assert counts["new"] == pytest.approx(6_000, abs=250)
    assert counts[None] == pytest.approx(10_000, abs=300)


def test_experiments_do_not_share_their_arms() -> None:
    users = [f"user{number}" for number in range(4_000)]
    both = sum(arm_of("one", user, HALVES) == arm_of("other", user, HALVES) for user in users)
    assert both == pytest.approx(2_000, abs=150)


def test_the_assignment_never_changes() -> None:
    # Another hash would move users between arms in the middle of an experiment.
    found = [arm_of("colours", f"user{number}", HALVES) for number in range(8)]
    assert found == ["new", "control", "new", "new", "control", "new", "new", "new"]


def test_numbers_of_users_that_do_not_fit_the_shares_are_noticed() -> None:
    assert sample_ratio_p({CONTROL: 5_000, "new": 5_050}, HALVES) > 0.5
    assert sample_ratio_p({CONTROL: 5_000, "new": 5_600}, HALVES) < SUSPICIOUS_P
    assert sample_ratio_p({CONTROL: 5_000}, HALVES) < SUSPICIOUS_P
    assert sample_ratio_p({}, HALVES) == 1


def test_an_interval_holds_the_true_lift_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(REPETITIONS):
        found = lift_of(rng.poisson(2.0, 400).astype(float), rng.poisson(2.2, 500).astype(float))
        held += found.low <= 0.1 <= found.high
    assert 0.90 <= held / REPETITIONS <= 0.99


def test_nothing_done_is_no_lift() -> None:
    zeros, ones = np.zeros(5), np.ones(5)
    assert lift_of(zeros, zeros).p == 1
    assert np.isnan(lift_of(zeros, ones).lift)
    assert lift_of(ones, ones)[2:] == (0, 0, 0, 1)
    with pytest.raises(ExperimentError, match="wait for more"):
        lift_of(ones[:1], ones)


@pytest.mark.parametrize(
    ("given", "advice"),
    [
        ({"experiment": "colours"}, "set both, or neither"),
        ({"arms": HALVES}, "set both, or neither"),
        ({"experiment": "colours", "arms": {"new": HALVES["new"]}}, "needs an arm 'control'"),
        ({"experiment": "colours", "arms": {CONTROL: HALVES[CONTROL]}}, "and another one"),
        ({"experiment": "colours", "arms": HALVES | {"third": Arm(version="3", share=0.1)}}, "lower them to 1"),
    ],
)
def test_what_does_not_go_together_is_refused(given: dict[str, object], advice: str) -> None:
    with pytest.raises(ValueError, match=advice):
        ScorerSettings.model_validate(given)


class SimulatedAnswers:
    """What users click of the three items that each of several rankers puts first: the simulator knows what they
    would have done with every candidate."""

    def __init__(self) -> None:
        simulator = Simulator(SimulatorSettings(seed=4, users=300, min_actions=100, max_actions=300))
        config = ModelConfig(heads=HEADS)
        click = KINDS.index("click")
        self.users: list[str] = []
        self.clicks: dict[str, list[int]] = {"random": [], "mean_of_top_64": [], "oracle": []}
        rng = np.random.default_rng(0)
        for number in range(simulator.settings.users):
            user = simulator.user(number)
            self.users.append(user.user_id)
            clicked = Counter[str]()
            asked = [
                request for test in (False, True) for request in requests_of(simulator, user, number, config, test=test)
            ]
            for request, done in zip(asked, user.requests.done[:, :, click], strict=True):
                rankings: dict[str, NDArray[np.floating]] = {
                    **request.rankings,
                    **cosine_rankings(request.history.explicit, request.embedding),
                    "random": rng.random(len(done)),
                }
                for ranker in self.clicks:
                    clicked[ranker] += int(done[np.argsort(-rankings[ranker])[:3]].sum())
            for ranker, clicks in self.clicks.items():
                clicks.append(clicked[ranker])

    def compare(self, experiment: str, control: str, treated: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the clicks of each user of the two arms, float64[n] and float64[m]."""
        arms = np.array([arm_of(experiment, user, HALVES) for user in self.users])
        return (
            np.array(self.clicks[control], float)[arms == CONTROL],
            np.array(self.clicks[treated], float)[arms == "new"],
        )


@pytest.fixture(scope="module")
def answers() -> SimulatedAnswers:
    return SimulatedAnswers()


def test_a_planted_lift_is_found(answers: SimulatedAnswers) -> None:
    found = lift_of(*answers.compare("planted", "random", "mean_of_top_64"))
    assert found.low > 0
    assert found.p < 0.01
    better = lift_of(*answers.compare("planted", "random", "oracle"))
    assert better.lift > found.lift
    worse = lift_of(*answers.compare("planted", "mean_of_top_64", "random"))
    assert worse.high < 0


def test_where_there_is_no_lift_false_alarms_come_in_one_of_twenty(answers: SimulatedAnswers) -> None:
    alarms = [
        lift_of(*answers.compare(f"repetition {number}", "mean_of_top_64", "mean_of_top_64")).p < 0.05
        for number in range(REPETITIONS)
    ]
    # Of 200 fair ones 10 are expected; 2 to 19 hold all but one in two hundred.
    assert 2 <= sum(alarms) <= 19
