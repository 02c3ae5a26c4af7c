"""Tokens and passwords as they come out of mounted files and variables."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from lifeline.client import LifelineClient
from lifeline.config import load_settings
from lifeline.core.credentials import password_text, token_text
from lifeline.core.errors import ConfigError, SecurityError
from lifeline.core.security import Caller, CallSecurity, SecuritySettings, token_hash
from tests.support.secure_servers import CALLERS, serving

SECRET = "wr1tten-by-a-t00l"


@pytest.mark.parametrize("name", ["token", "peer_token"])
@pytest.mark.parametrize("ends", ["\n", "\r\n", " ", "\n\n", "\t"])
def test_white_space_at_the_ends_is_no_part_of_a_token(monkeypatch: pytest.MonkeyPatch, name: str, ends: str) -> None:
    monkeypatch.setenv(f"LIFELINE_SECURITY__{name.upper()}", f"{ends}{SECRET}{ends}")
    security = load_settings().settings.security
    calls = CallSecurity.of(security) if name == "token" else CallSecurity.between_nodes(security)
    assert calls.metadata == (("authorization", f"Bearer {SECRET}"),)
    assert token_hash(f"{SECRET}{ends}") == token_hash(SECRET)


@pytest.mark.parametrize(
    ("token", "why"),
    [
        (f"{SECRET}\n{SECRET}", "character 18 of its token is white space"),
        (f"{SECRET}\x1b", "character 18 of its token is a control character"),
        (f"é{SECRET}", "character 1 of its token is not ASCII"),
        (f"{SECRET}\u200b", "character 18 of its token is not ASCII"),
        (f"{SECRET} {SECRET}", "character 18 of its token is white space"),
        ("\n", "holds no token"),
        (SECRET * 300, "its token has 5,100 characters"),
    ],
)
@pytest.mark.parametrize("name", ["token", "peer_token"])
def test_what_no_header_can_carry_is_refused_where_it_is_read(
    monkeypatch: pytest.MonkeyPatch, name: str, token: str, why: str
) -> None:
    monkeypatch.setenv(f"LIFELINE_SECURITY__{name.upper()}", token)
    with pytest.raises(ConfigError, match=why) as caught:
        load_settings()
    (problem,) = caught.value.problems
    assert problem.startswith(f"env LIFELINE_SECURITY__{name.upper()}: security.{name}: ")
    assert "`lifeline token`" in problem
    assert SECRET not in problem


def test_an_empty_variable_is_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIFELINE_SECURITY__TOKEN", "")
    assert load_settings().settings.security.token is None


def test_a_program_that_reads_the_file_itself_gets_the_same() -> None:
    with (
        serving(SecuritySettings.model_validate({"callers": CALLERS})) as (server, _),
        LifelineClient(server.address, security=CallSecurity(token=lambda: "read\n"), timeout_s=10) as client,
    ):
        client.get_sequence("ann")
    with pytest.raises(SecurityError, match=r"CallSecurity\.token: character 18") as caught:
        _ = CallSecurity(token=lambda: f"{SECRET}\0").metadata
    assert SECRET not in str(caught.value)


def test_a_line_break_after_a_hash_is_no_part_of_it() -> None:
    digest = token_hash(SECRET)
    for written in (f"{digest}\n", [f"{digest}\n"], f"{digest},\n{'0' * 64}\n"):
        assert Caller.model_validate({"token_sha256": written}).token_sha256[0] == digest


def test_a_line_break_after_a_password_is_no_part_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "KAFKA__SECURITY_PROTOCOL": "SASL_PLAINTEXT",
        "KAFKA__SASL_MECHANISM": "PLAIN",
        "KAFKA__SASL_USERNAME": "shop\n",
        "KAFKA__SASL_PASSWORD": f" {SECRET} \r\n",
        "KAFKA__SSL_KEY_PASSWORD": f"{SECRET}\n",
        "SNAPSHOT__STORAGE_OPTIONS": f'{{"secret": "{SECRET}\\n", "key": true}}',
    }.items():
        monkeypatch.setenv(f"LIFELINE_{name}", value)
    settings = load_settings().settings
    options = settings.kafka.client_options()
    # A blank may be part of a password.
    assert (options["sasl_plain_username"], options["sasl_plain_password"]) == ("shop", f" {SECRET} ")
    assert settings.kafka.ssl_key_password == SecretStr(SECRET)
    assert settings.snapshot.options() == {"secret": SECRET, "key": True}
    monkeypatch.setenv("LIFELINE_KAFKA__SASL_PASSWORD", "\n")
    with pytest.raises(ConfigError, match="needs a login"):
        load_settings()
    # TOML can hold what a variable cannot.
    with pytest.raises(ConfigError, match=r"kafka\.sasl_password: it holds a null character") as caught:
        load_settings(None, {"kafka.sasl_password": f"{SECRET}\0"})
    assert SECRET not in str(caught.value)


@given(st.text())
def test_a_token_that_is_taken_can_be_sent(text: str) -> None:
    try:
        token = token_text(text)
    except ValueError:
        return
    assert token == text.strip()
    assert token.isascii()
    assert token.isprintable()
    assert token.split() == [token]


@given(st.text())
def test_a_password_loses_only_line_breaks(text: str) -> None:
    try:
        password = password_text(text)
    except ValueError:
        assert "\0" in text
        return
    assert text.startswith(password)
    assert set(text[len(password) :]) <= {"\r", "\n"}
