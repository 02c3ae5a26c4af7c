"""Error messages about the configuration, and `lifeline config show`, hide secrets."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel
from typer.testing import CliRunner

from lifeline.cli import app
from lifeline.config import Settings, load_settings
from lifeline.core.errors import ConfigError
from lifeline.core.security import token_hash

PASTED = "pasted-secret-Abc123"


@pytest.mark.parametrize(
    "content",
    [
        f'[security.callers.feed]\ntoken_sha256 = "{PASTED}"\n',
        f'[security.callers.feed]\ntoken_sha256 = ["{"0" * 64}", "{PASTED}"]\n',
        f'[security.callers.feed]\ntoken_sha256 = {{ a = "{PASTED}" }}\n',
        f'[security.callers.feed]\ntoken = "{PASTED}"\n',
        f'[security.callers]\nfeed = "{PASTED}"\n',
        f'[security]\ncallers = "{PASTED}"\n',
        f'[security]\ncallers = ["{PASTED}"]\n',
        f'[security]\ntoken = ["{PASTED}"]\n',
        f'[security]\npeer_token = {{ a = "{PASTED}" }}\n',
        f'[security]\ntoken = "{PASTED}"\ntoken_file = "x"\n',
        f'[security]\ntokn = "{PASTED}"\n',
        f'security = "{PASTED}"\n',
        f'kafka = "{PASTED}"\n',
        f'[kafka]\nsasl_password = ["{PASTED}"]\n',
        f'[kafka]\nssl_key_password = ["{PASTED}"]\n',
        f'[kafka]\nsecurity_protocol = "SASL_SSL"\nsasl_password = "{PASTED}"\n',
        f'[snapshot]\nstorage_options = "{PASTED}"\n',
        f'[snapshot]\nurl = ["https://host/path?sig={PASTED}"]\n',
        f'[snapshot]\nurl = "ftp://me:{PASTED}@host/path"\n',
        f'[snapshot]\nstorage_options = {{ secret = "{PASTED}" }}\nkeep = 0\n',
    ],
)
def test_no_message_about_the_configuration_shows_a_secret(config_file: Path, content: str) -> None:
    config_file.write_text(content)
    with pytest.raises(ConfigError) as caught:
        load_settings(config_file)
    assert PASTED not in str(caught.value)
    assert PASTED not in repr(caught.value.__cause__)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LIFELINE_SECURITY", PASTED),
        ("LIFELINE_SECURITY__CALLERS", PASTED),
        ("LIFELINE_SECURITY__CALLERS__FEED", PASTED),
        ("LIFELINE_SECURITY__CALLERS__FEED__TOKEN_SHA256", PASTED),
        ("LIFELINE_SECURITY__CALLERS__FEED", f'{{"token_sha256": "{PASTED}"}}'),
        ("LIFELINE_SECURITY__CALLERS__FEED__METHODS", PASTED),
        ("LIFELINE_KAFKA__SASL_PASSWORD__X", PASTED),
    ],
)
def test_no_message_about_a_variable_shows_a_secret(
    config_file: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    config_file.unlink()
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as caught:
        load_settings()
    assert PASTED not in str(caught.value)


@pytest.mark.parametrize("tokens", [("old",), ("old", "new")])
def test_hashes_may_come_from_a_variable(
    config_file: Path, monkeypatch: pytest.MonkeyPatch, tokens: tuple[str, ...]
) -> None:
    config_file.unlink()
    hashes = tuple(map(token_hash, tokens))
    monkeypatch.setenv("LIFELINE_SECURITY__CALLERS__FEED__TOKEN_SHA256", ", ".join(hashes))
    assert load_settings().settings.security.callers["feed"].token_sha256 == hashes


def test_what_is_shown_of_the_configuration_has_no_secret(config_file: Path) -> None:
    config_file.write_text(
        f'[security]\ntoken = "{PASTED}"\npeer_token = "{PASTED}"\n[kafka]\nsasl_password = "{PASTED}"\n'
        f'ssl_key_password = "{PASTED}"\n[snapshot]\nurl = "abfs://c/p?sv=1&sig={PASTED}"\n'
        f'storage_options = {{ sas_token = "{PASTED}", kw = {{ a = "{PASTED}" }} }}\n'
    )
    for more in ([], ["--json"], ["--origin"]):
        done = CliRunner().invoke(app, ["config", "show", "--config", str(config_file), *more], env={"COLUMNS": "300"})
        assert done.exit_code == 0
        assert PASTED not in done.stdout
        assert "sig=***" in done.stdout
    assert PASTED not in repr(load_settings(config_file).settings).replace(f"sig={PASTED}", "")


def models(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    yield model
    for field in model.model_fields.values():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from models(field.annotation)


def test_validation_hides_the_input_of_whatever_has_secrets() -> None:
    found: list[type[BaseModel]] = [model for model in models(Settings) if "SecretStr" in str(model.model_fields)]
    assert {model.__name__ for model in found} >= {"KafkaSettings", "SnapshotSettings", "SecuritySettings"}
    holders: list[type[BaseModel]] = [*found, Settings]
    for model in holders:
        assert model.model_config.get("hide_input_in_errors"), model
