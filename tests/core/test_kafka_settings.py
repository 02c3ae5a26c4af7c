import ssl
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from lifeline.core.kafka_settings import KafkaSettings


def test_the_defaults_need_nothing() -> None:
    settings = KafkaSettings()
    assert settings.client_options() == {
        "bootstrap_servers": ["127.0.0.1:9092"],
        "client_id": "lifeline",
        "security_protocol": "PLAINTEXT",
    }
    assert settings.dead_letter_topic == "actions-dlq"


def test_a_login_over_tls_is_named_as_both_client_libraries_name_it() -> None:
    settings = KafkaSettings(
        bootstrap_servers="a:1, b:2",
        security_protocol="SASL_SSL",
        sasl_mechanism="SCRAM-SHA-256",
        sasl_username="me",
        sasl_password="secret",  # type: ignore[arg-type]
        ssl_check_hostname=False,
    )
    options = settings.client_options()
    assert options["bootstrap_servers"] == ["a:1", "b:2"]
    assert isinstance(options["ssl_context"], ssl.SSLContext)
    assert not options["ssl_context"].check_hostname
    assert options["ssl_context"] is settings.client_options()["ssl_context"]
    assert (options["sasl_mechanism"], options["sasl_plain_username"]) == ("SCRAM-SHA-256", "me")
    assert options["sasl_plain_password"] == "secret"
    assert "secret" not in repr(settings)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"security_protocol": "SASL_SSL"}, "set sasl_mechanism, sasl_username and sasl_password"),
        ({"ssl_key_file": "key.pem"}, "set ssl_cert_file too"),
        ({"actions_topic": "items"}, "give each a name of its own"),
        ({"bootstrap_servers": "localhost"}, "pattern"),
        ({"bootstrap_servers": "a:1,,b:2"}, "pattern"),
        ({"partitions": 0}, "greater than or equal to 1"),
        ({"actions_topic": "no/slash"}, "pattern"),
        ({"unknown": 1}, "Extra inputs"),
    ],
)
def test_what_cannot_work_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        KafkaSettings(**fields)


@pytest.mark.parametrize("name", ["ssl_ca_file", "ssl_cert_file"])
def test_a_file_of_tls_that_is_missing_or_no_pem(name: str, tmp_path: Path) -> None:
    path = tmp_path / "some.pem"
    with pytest.raises(ValidationError, match=rf"kafka\.{name} names .*some\.pem, which does not exist"):
        KafkaSettings.model_validate({"security_protocol": "SSL", name: str(path)})
    path.write_text("no certificate")
    with pytest.raises(ValidationError, match=rf"kafka\.{name} .*some\.pem cannot be loaded"):
        KafkaSettings.model_validate({"security_protocol": "SSL", name: str(path)})
