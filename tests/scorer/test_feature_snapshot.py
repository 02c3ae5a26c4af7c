import numpy as np
import pytest

from lifeline.scorer.feature_snapshot import FeatureSnapshot
from lifeline.scorer.features import RequestContext
from lifeline.scorer.selection import select
from tests.support.scorer_factories import DAY, SMALL, embeddings, history


@pytest.mark.parametrize(
    ("explicit", "impressions", "count", "lifelong"),
    [(0, 0, 1, 4), (0, 3, 2, 4), (1, 0, 1, 4), (300, 9, 7, 4), (300, 9, 0, 4), (40_000, 9, 100, 1_000)],
)
def test_it_points_at_the_tokens_that_were_selected(explicit: int, impressions: int, count: int, lifelong: int) -> None:
    rng = np.random.default_rng(explicit)
    config = SMALL.model_copy(update={"lifelong_selected": lifelong})
    made, candidates = history(rng, explicit, impressions, config), embeddings(rng, count)
    selection = select(made, candidates, config)
    items, context = np.arange(count, dtype=np.uint64), RequestContext(1_001 * DAY, 1)
    request, _ = FeatureSnapshot.of(made, items, candidates, context, config, selection)
    there = selection.index >= 0
    np.testing.assert_array_equal(request.index >= 0, there)
    for column in ("timestamp_ms", "item_id", "action_types", "surface", "embedding"):
        ours, theirs = getattr(request.tokens, column), getattr(made.tokens, column)
        np.testing.assert_array_equal(ours[request.index[there]], theirs[selection.index[there]])
    # No token is there that is neither selected nor an impression.
    assert len(request.tokens) == len(np.union1d(selection.index[there], explicit + np.arange(len(made.impressions))))
    assert request.impressions == len(made.impressions)
    if explicit > 1 << 15:
        assert len(request.tokens) > 1 << 15
