import pytest
from pydantic import ValidationError

from lifeline.core.vocabulary import ActionType, Role, Vocabulary
from lifeline.scorer.config import Head, ModelConfig, default_heads
from tests.support.scorer_factories import HEADS, SMALL


def test_the_published_model_reads_192_tokens() -> None:
    assert ModelConfig(heads=HEADS).selection_length == 192


def test_each_type_but_impressions_has_a_head_with_the_utility_of_its_role() -> None:
    vocabulary = Vocabulary(
        action_types={
            "seen": ActionType(id=9, role=Role.IMPRESSION),
            "hide": ActionType(id=3, role=Role.NEGATIVE),
            "look": ActionType(id=2, role=Role.NEUTRAL),
            "save": ActionType(id=1),
        }
    )
    heads = [(head.name, head.action_types, head.utility) for head in default_heads(vocabulary)]
    assert heads == [("save", (1,), 1.0), ("look", (2,), 0.2), ("hide", (3,), -1.0)]


def test_it_survives_the_manifest() -> None:
    assert ModelConfig.model_validate_json(SMALL.model_dump_json()) == SMALL


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"recent_kept": 200}, "recent_kept 200 exceeds"),
        ({"newest_outputs": 65}, "newest_outputs 65 exceeds"),
        ({"heads": (HEADS[0], HEADS[0])}, "two heads"),
        ({"heads": ()}, "at least 1"),
        ({"unknown": 1}, "Extra inputs"),
    ],
)
def test_what_does_not_fit_together_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ModelConfig.model_validate({"heads": HEADS} | change)


def test_a_head_counts_known_action_types_alone() -> None:
    with pytest.raises(ValidationError):
        Head(name="x", action_types=(65,), utility=1)
