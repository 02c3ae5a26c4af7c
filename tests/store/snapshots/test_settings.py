import pytest
from pydantic import ValidationError

from lifeline.store.snapshots.settings import SnapshotSettings


def test_options_are_secret_and_come_back_as_they_were() -> None:
    options = {
        "key": "me",
        "secret": "0123",
        "anon": False,
        "client_kwargs": {"region_name": "x"},
        "port": 1,
        "odd": "{",
    }
    settings = SnapshotSettings.model_validate({"url": "s3://bucket/path", "storage_options": options})
    assert settings.options() == options | {"port": "1"}
    assert "0123" not in str(settings)
    assert "0123" not in settings.model_dump_json()


def test_options_of_variables_are_text_that_may_hold_json() -> None:
    settings = SnapshotSettings.model_validate({"storage_options": {"anon": "true", "client_kwargs": '{"a": [1]}'}})
    assert settings.options() == {"anon": True, "client_kwargs": {"a": [1]}}


def test_a_url_does_not_hold_a_password() -> None:
    with pytest.raises(ValidationError, match=r"contains a password.*storage_options"):
        SnapshotSettings(url="ftp://me:secret@host/path")
    for url in ("/backups", "ftp://me@host/a:b@c", "s3://bucket/a@b:c", "memory://x"):
        assert SnapshotSettings(url=url).url == url


def test_the_settings_are_bounded() -> None:
    assert (SnapshotSettings().url, SnapshotSettings().keep, SnapshotSettings().options()) == (None, 3, {})
    for wrong in ({"url": ""}, {"keep": 0}, {"more": 1}, {"storage_options": ["key"]}):
        with pytest.raises(ValidationError):
            SnapshotSettings.model_validate(wrong)
