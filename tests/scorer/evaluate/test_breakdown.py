import numpy as np
import pytest

from lifeline.scorer.evaluate.breakdown import dormancy_days, history_length, lift_by
from lifeline.scorer.evaluate.evaluation import Evaluation
from lifeline.scorer.features import History, RequestContext, Tokens
from lifeline.scorer.train.examples import ExampleSet
from lifeline.scorer.train.request import Request
from tests.support.ranking_requests import made_requests
from tests.support.scorer_factories import DAY, SMALL, embeddings, history


def test_history_length_is_read_from_the_context() -> None:
    requests = made_requests(np.random.default_rng(0), [(40, 9, 5), (0, 0, 2), (12, 3, 7)])
    np.testing.assert_allclose(history_length(ExampleSet.of(requests, SMALL)), [40, 0, 12], atol=1e-3)


def test_dormancy_is_the_time_since_something_near_was_touched() -> None:
    rng = np.random.default_rng(1)
    vectors = embeddings(rng, 3)
    explicit = Tokens(
        np.array([10, 50, 90]) * DAY,
        np.arange(3).astype(np.uint64),
        np.ones(3, np.uint64),
        np.zeros(3, np.uint8),
        vectors,
    )
    h = History.of(explicit, history(rng, 0, 2).impressions, SMALL)

    def asked(acted: list[int]) -> Request:
        types = np.array(acted, np.uint64)
        return Request(0, h, RequestContext(100 * DAY), np.arange(3).astype(np.uint64), vectors, types)

    found = dormancy_days(ExampleSet.of([asked([0, 1, 0]), asked([1, 0, 1]), asked([0, 0, 0])], SMALL))
    assert found[:2].tolist() == [50, 90]
    assert np.isnan(found[2])


def test_lifts_are_binned_by_a_property() -> None:
    column = np.array([4.0, 3.0, 2.0, 1.0, np.nan])
    theirs = Evaluation(np.arange(5), {"hit": np.zeros(5)}, None)
    ours = [Evaluation(np.arange(5), {"hit": np.array([0.4, 0.3, 0.2, 0.1, 9]) + shift}, None) for shift in (0, 0.2)]
    middle, lift, error = lift_by(column, ours, [theirs, theirs], "hit", bins=2)
    assert middle == pytest.approx([1.5, 3.5])
    assert lift == pytest.approx([0.25, 0.45])
    assert (error > 0).all()
