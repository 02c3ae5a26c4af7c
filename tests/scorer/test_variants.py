import pytest
from pydantic import ValidationError

from lifeline.scorer.config import ModelConfig
from lifeline.scorer.variants import NAMES, PUBLISHED, variant
from tests.support.scorer_factories import HEADS


def test_the_published_rows_are_there_and_v2_is_the_default() -> None:
    assert set(PUBLISHED) < set(NAMES)
    assert variant("v2", HEADS) == ModelConfig(heads=HEADS)
    assert variant("v2", HEADS).selection_length == 192


def test_published_rows_use_nothing_that_was_not_published() -> None:
    published = ModelConfig(heads=HEADS)
    for name in PUBLISHED:
        config = variant(name, HEADS)
        for option in (
            "matching_init",
            "similarity_buckets",
            "age_buckets",
            "sequence_gate",
            "selection_statistics",
            "last_touch",
        ):
            assert getattr(config, option) == getattr(published, option), (name, option)


@pytest.mark.parametrize(
    ("changes", "advice"),
    [
        ({"encoder": "none"}, "set nal_weight and newest_outputs to 0"),
        ({"encoder": "bst", "nal_weight": 0.0, "matching_init": True}, "matching_init to false"),
        ({"encoder": "none", "nal_weight": 0.0, "sequence_gate": True}, "set it to false"),
        ({"similarity_buckets": 1}, "set 0 for none, or at least 2"),
        (
            {"lifelong_selected": 0, "recent_kept": 0, "real_time_selected": 0, "impressions_selected": 0},
            "raise recent_kept",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(changes: dict[str, object], advice: str) -> None:
    with pytest.raises(ValidationError, match=advice):
        ModelConfig.model_validate({"heads": HEADS, **changes})
