"""What is printed and logged of text in which URLs and connection strings carry secrets."""

import json
import logging
import string

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from lifeline.cli.logs import configure_logs
from lifeline.core.redaction import redact
from lifeline.rpc.settings import NodeSettings
from lifeline.store.errors import SnapshotError
from lifeline.store.snapshots.remote import RemoteDirectory

SECRET = "Zm9vYmFyYmF6"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"https://a.blob.example/c?sv=2024&sig={SECRET}%3D", "https://a.blob.example/c?sv=***&sig=***"),
        (f"s3://b/k?X-Amz-Credential=x&X-Amz-Signature={SECRET}", "s3://b/k?X-Amz-Credential=***&X-Amz-Signature=***"),
        (f"abfs://c/p?{SECRET}#{SECRET}", "abfs://c/p?***#***"),
        (f"https://h/p?a=1;key={SECRET}&{SECRET}", "https://h/p?a=***;key=***&***"),
        (f"https://h/p#access_token={SECRET}", "https://h/p#access_token=***"),
        (f"ftp://me:{SECRET}@host/path", "ftp://***@host/path"),
        (f"https://{SECRET}@host/path", "https://***@host/path"),
        (f"ftp://me:{SECRET}/x@host/path", "ftp://***@host/path"),
        (f"simplecache::https://u:{SECRET}@h/x", "simplecache::https://***@h/x"),
        (f"no https://h/p?sig={SECRET}, nor ftp://u:{SECRET}@h", "no https://h/p?sig=*** nor ftp://***@h"),
        (
            f"AccountName=shop;AccountKey={SECRET}==;EndpointSuffix=x",
            "AccountName=shop;AccountKey=***;EndpointSuffix=x",
        ),
        (f"{{'sas_token': '{SECRET}', 'keep': '3'}}", "{'sas_token': '***', 'keep': '3'}"),
        (f'password="{SECRET} {SECRET}" user="me"', 'password="***" user="me"'),
        (f"authorization: Bearer {SECRET}{SECRET}", "authorization: Bearer ***"),
    ],
)
def test_secrets_are_masked(text: str, shown: str) -> None:
    assert redact(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket/path@v2/x",
        "http://host:9464/readyz@x",
        "memory://x",
        "file:///var/lib/lifeline",
        "listening on 127.0.0.1:50051",
        "send authorization: Bearer TOKEN (a client's security.token)",
        "design=1 assignment=2 tokens=3",
        "partition=3 applied_offset=17",
    ],
)
def test_the_rest_stays_as_it_is(text: str) -> None:
    assert redact(text) == text


@given(
    before=st.text(st.characters(codec="utf-8", exclude_characters="\"'<>\\=&?#;"), max_size=20),
    name=st.sampled_from(["sig", "X-Amz-Signature", "whatever", "token"]),
    value=st.text(string.ascii_letters + string.digits + "+/%._~-", min_size=12, max_size=40),
    behind=st.sampled_from(["", "&se=1", "#x", ' "', " and"]),
)
def test_no_value_of_a_query_is_shown(before: str, name: str, value: str, behind: str) -> None:
    assert value not in redact(f"{before} https://host/path?{name}={value}{behind}").replace(before, "")


def test_what_a_library_says_is_shown_without_url_and_options() -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(f"GET https://h/p?sig={SECRET} with {SECRET[::-1]} at https://endpoint")

    remote = RemoteDirectory(
        f"memory://x?sig={SECRET}", {"secret": SECRET[::-1], "client_kwargs": {"endpoint": "https://endpoint"}}
    )
    assert remote.url == "memory://x?sig=***"
    remote._fs.cat_file = fail
    with pytest.raises(SnapshotError, match=r"memory://x\?sig=\*\*\* cannot be read .* https://endpoint") as caught:
        remote.read("a")
    assert SECRET not in str(caught.value)
    assert SECRET[::-1] not in str(caught.value)
    with pytest.raises(SnapshotError) as caught:
        RemoteDirectory(f"nowhere://h/p?sig={SECRET}", {})
    assert SECRET not in str(caught.value)


def fail(a_local_secret: str) -> None:
    raise ValueError(f"GET https://h/p?sig={a_local_secret}")


@pytest.mark.parametrize("form", ["json", "console"])
def test_log_lines_and_their_tracebacks_have_no_secret(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    handlers, level, configured = root.handlers, root.level, structlog.get_config()
    try:
        configure_logs(NodeSettings.model_validate({"log_format": form}))
        try:
            fail(SECRET)
        except ValueError:
            logging.getLogger("fsspec").exception("failed at ftp://u:%s@h/p", SECRET)
    finally:
        root.handlers = handlers
        root.setLevel(level)
        structlog.configure(**configured)
    said = capsys.readouterr().err
    assert "https://h/p?sig=***" in said
    assert SECRET not in said
    if form == "json":
        assert json.loads(said)["event"] == "failed at ftp://***@h/p"
