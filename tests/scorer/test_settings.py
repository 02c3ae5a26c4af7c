import pytest
from pydantic import ValidationError

from lifeline.scorer.settings import ScorerSettings, TrainSettings


@pytest.mark.parametrize("name", ["", ".hidden", "../up", "a/b"])
def test_a_name_is_a_name_of_a_directory(name: str) -> None:
    with pytest.raises(ValidationError):
        ScorerSettings(model=name)
    with pytest.raises(ValidationError):
        ScorerSettings(version=name)


def test_the_defaults_are_valid_and_cannot_be_changed_in_place() -> None:
    assert ScorerSettings().max_candidates == 512
    with pytest.raises(ValidationError):
        TrainSettings().steps = 1
