import numpy as np
import pytest
from pydantic import ValidationError

from lifeline.core.actions import Kind
from lifeline.core.vocabulary import ActionType, Role, Vocabulary


def test_the_default_names_what_the_project_speaks_of() -> None:
    vocabulary = Vocabulary()
    assert vocabulary.action_type_names[1] == "repin"
    assert vocabulary.surface_names == {0: "unknown", 1: "home", 2: "search", 3: "related"}
    assert vocabulary.ids_with_role(Role.IMPRESSION) == [5]
    assert vocabulary.ids_with_role(Role.NEGATIVE, Role.POSITIVE) == [1, 2, 4]
    assert vocabulary.ids_with_role() == []


def test_impressions_alone_are_of_the_other_kind() -> None:
    vocabulary = Vocabulary(
        action_types={"a": ActionType(id=64), "b": ActionType(id=7, role=Role.IMPRESSION), "c": ActionType(id=1)}
    )
    kinds = vocabulary.kind_of_type
    assert kinds.dtype == np.uint8
    assert len(kinds) == 256
    assert np.flatnonzero(kinds == Kind.IMPRESSION).tolist() == [7]


def test_what_is_known_is_known_and_nothing_else() -> None:
    vocabulary = Vocabulary(action_types={"a": ActionType(id=64), "b": ActionType(id=2)}, surfaces={"x": 255})
    assert np.flatnonzero(vocabulary.known_action_types).tolist() == [2, 64]
    assert np.flatnonzero(vocabulary.known_surfaces).tolist() == [0, 255]
    assert len(vocabulary.known_action_types) == len(vocabulary.known_surfaces) == 1 << 16
    assert not Vocabulary().known_action_types[0]


def test_surfaces_may_be_none_at_all() -> None:
    assert Vocabulary(surfaces={}).surface_names == {0: "unknown"}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"action_types": {"a": {"id": 0}}}, "greater than or equal to 1"),
        ({"action_types": {"a": {"id": 65}}}, "less than or equal to 64"),
        ({"action_types": {"a": {"id": 1}, "b": {"id": 1}}}, "action type id 1 is given to two names"),
        ({"action_types": {}}, "name at least one"),
        ({"action_types": {"a": {"id": 1, "role": "liked"}}}, "positive"),
        ({"action_types": {"a": {"id": 1, "rule": "positive"}}}, "Extra inputs"),
        ({"surfaces": {"home": 0}}, "greater than or equal to 1"),
        ({"surfaces": {"home": 256}}, "less than 256"),
        ({"surfaces": {"home": 9, "search": 9}}, "surface id 9 is given to two names"),
        ({"kinds": {}}, "Extra inputs"),
    ],
)
def test_a_vocabulary_that_means_nothing_is_refused(content: dict[str, object], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        Vocabulary.model_validate(content)


def test_a_vocabulary_does_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Vocabulary().surfaces = {}
