import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from lifeline.config import DEFAULT, Settings, load_settings
from lifeline.core.errors import ConfigError
from lifeline.core.vocabulary import Role
from lifeline.rpc.settings import NodeSettings


@pytest.fixture(autouse=True)
def _bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run every test in an empty directory, without a variable of ours."""
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith("LIFELINE_"):
            monkeypatch.delenv(name)


def _file(text: str, name: str = "lifeline.toml") -> Path:
    path = Path(name)
    path.write_text(text)
    return path


def _problems(config: Path | None = None, **flags: object) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_settings(config, {key.replace("__", "."): value for key, value in flags.items()})
    assert str(caught.value) == "\n".join(caught.value.problems)
    return caught.value.problems


def test_without_a_source_everything_is_the_default() -> None:
    loaded = load_settings()
    assert loaded.settings == Settings()
    assert set(loaded.origin.values()) == {DEFAULT}
    assert loaded.origin["kafka.bootstrap_servers"] == DEFAULT


def test_each_source_stands_above_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    _file('[kafka]\ngroup_id = "file"\nactions_topic = "file"\nclient_id = "file"\n')
    monkeypatch.setenv("LIFELINE_KAFKA__GROUP_ID", "env")
    monkeypatch.setenv("LIFELINE_KAFKA__ACTIONS_TOPIC", "env")
    loaded = load_settings(flags={"kafka.group_id": "flag", "node.data_dir": None})
    kafka = loaded.settings.kafka
    assert (kafka.group_id, kafka.actions_topic, kafka.client_id, kafka.items_topic) == (
        "flag",
        "env",
        "file",
        "items",
    )
    assert loaded.origin["kafka.group_id"] == "flag --group-id"
    assert loaded.origin["kafka.actions_topic"] == "env LIFELINE_KAFKA__ACTIONS_TOPIC"
    assert loaded.origin["kafka.client_id"] == "lifeline.toml"
    assert loaded.origin["kafka.items_topic"] == DEFAULT
    assert loaded.origin["node.data_dir"] == DEFAULT


def test_the_origin_names_every_setting_once() -> None:
    rows = load_settings().rows()
    keys = [row.key for row in rows]
    assert len(keys) == len(set(keys))
    assert {"node.log_format", "store.max_explicit", "vocabulary.surfaces", "scorer.models_dir"} <= set(keys)


@pytest.mark.parametrize("by", ["flag", "variable"])
def test_another_file_can_be_named(monkeypatch: pytest.MonkeyPatch, by: str) -> None:
    _file("[store]\nmax_explicit = 1\n")
    other = _file("[store]\nmax_explicit = 7\n", "other.toml")
    if by == "variable":
        monkeypatch.setenv("LIFELINE_CONFIG", str(other))
    loaded = load_settings(other if by == "flag" else None)
    assert loaded.settings.store.max_explicit == 7
    assert loaded.origin["store.max_explicit"] == "other.toml"


@pytest.mark.parametrize(
    "service", ["LIFELINE", "LIFELINE_NODE", "LIFELINE_KAFKA_BOOTSTRAP", "LIFELINE_0", "LIFELINE_PORT"]
)
def test_kubernetes_may_name_the_services_of_a_namespace(monkeypatch: pytest.MonkeyPatch, service: str) -> None:
    variables = {
        "SERVICE_HOST": "10.0.0.1",
        "SERVICE_PORT": "50051",
        "SERVICE_PORT_GRPC": "50051",
        "SERVICE_PORT_HTTP_METRICS": "8080",
        "PORT": "tcp://10.0.0.1:50051",
        **{
            f"PORT_50051_{protocol}{end}": value
            for protocol in ("TCP", "UDP", "SCTP")
            for end, value in {
                "": f"{protocol.lower()}://[fd00::1]:50051",
                "_ADDR": "fd00::1",
                "_PORT": "50051",
                "_PROTO": protocol.lower(),
            }.items()
        },
    }
    for end, value in variables.items():
        monkeypatch.setenv(f"{service}_{end}", value)
    assert set(load_settings().origin.values()) == {DEFAULT}


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("LIFELINE_PORT", "50051"),
        ("LIFELINE_GRPC_PORT", "127.0.0.1:50051"),
        ("LIFELINE_NODE__GRPC_PORT", "50051"),
        ("LIFELINE_SERVICE_HOSTS", "10.0.0.1"),
        ("LIFELINE_PORT_TCP", "tcp://10.0.0.1:50051"),
        ("LIFELINE_PORT_50051_HTTP", "tcp://10.0.0.1:50051"),
        ("LIFELINE_PORT_50051_TCP_HOST", "10.0.0.1"),
        ("LIFELINE_KAFKA__BOOTSTRAP_SERVER", "tcp://10.0.0.1:9092"),
    ],
)
def test_a_name_that_kubernetes_does_not_make_is_refused(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    (problem,) = _problems()
    assert problem.startswith(f"{variable} names no setting: ")


def test_a_named_file_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _problems(Path("no.toml")) == ["no.toml is not a file: create it, or name another with --config"]
    monkeypatch.setenv("LIFELINE_CONFIG", "no.toml")
    assert _problems() == ["no.toml is not a file: create it, or name another with LIFELINE_CONFIG"]


def test_a_file_that_is_not_toml_is_an_error() -> None:
    _file("[kafka\n")
    (problem,) = _problems()
    assert problem.startswith("lifeline.toml is not TOML: correct it where it says:")
    assert "line 1" in problem


def test_a_part_of_the_tree_may_be_one_json_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIFELINE_STORE", '{"max_explicit": 5, "max_impressions": 6}')
    monkeypatch.setenv("LIFELINE_STORE__MAX_IMPRESSIONS", "8")
    loaded = load_settings()
    assert (loaded.settings.store.max_explicit, loaded.settings.store.max_impressions) == (5, 8)
    assert loaded.origin["store.max_explicit"] == "env LIFELINE_STORE"
    assert loaded.origin["store.max_impressions"] == "env LIFELINE_STORE__MAX_IMPRESSIONS"


def test_a_json_variable_that_holds_no_object_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIFELINE_STORE", "many")
    assert _problems() == ["LIFELINE_STORE holds no JSON object: write one, or set its parts with LIFELINE_STORE__NAME"]


def test_an_unknown_variable_is_an_error_with_the_likely_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIFELINE_KAFKA__BOOTSTRAP_SERVER", "x:1")
    monkeypatch.setenv("LIFELINE_KAFKA__GROUP_ID__X", "x")
    monkeypatch.setenv("LIFELINE_ZZZ", "x")
    first, second, third = _problems()
    assert first == (
        "LIFELINE_KAFKA__BOOTSTRAP_SERVER names no setting: did you mean LIFELINE_KAFKA__BOOTSTRAP_SERVERS?"
    )
    assert second.startswith("LIFELINE_KAFKA__GROUP_ID__X names no setting")
    assert "lifeline config show" in third


def test_variables_that_are_no_settings_are_let_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIFELINE_HISTORY", "/somewhere")
    monkeypatch.setenv("LIFELINE_KERNELS", "torch")
    assert load_settings().settings == Settings()


def test_an_unknown_key_of_the_file_is_an_error_with_the_likely_one() -> None:
    _file("[kafka]\nbootstrap_server = 'x:1'\n[kafak]\na = 1\n")
    assert sorted(_problems()) == [
        "lifeline.toml: kafak is not a setting: did you mean kafka?",
        "lifeline.toml: kafka.bootstrap_server is not a setting: did you mean kafka.bootstrap_servers?",
    ]


def test_an_invalid_value_names_its_source(monkeypatch: pytest.MonkeyPatch) -> None:
    _file("[store]\nmax_explicit = 0\n")
    monkeypatch.setenv("LIFELINE_KAFKA__PARTITIONS", "many")
    problems = _problems(node__log_level="loud")
    assert any(p.startswith("env LIFELINE_KAFKA__PARTITIONS: kafka.partitions: ") and "'many'" in p for p in problems)
    assert any(p.startswith("lifeline.toml: store.max_explicit: ") and "(it is 0)" in p for p in problems)
    assert any(p.startswith("flag --log-level: node.log_level: ") for p in problems)
    assert all(p.endswith("correct the value") for p in problems)


def test_values_that_do_not_go_together_name_their_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIFELINE_KAFKA__SECURITY_PROTOCOL", "SASL_SSL")
    monkeypatch.setenv("LIFELINE_KAFKA__SASL_USERNAME", "me")
    (problem,) = _problems()
    assert problem.startswith("env LIFELINE_KAFKA__SASL_USERNAME, env LIFELINE_KAFKA__SECURITY_PROTOCOL: kafka: ")
    assert "sasl_password" in problem


def test_secrets_are_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIFELINE_KAFKA__SASL_PASSWORD", "hunter2")
    loaded = load_settings()
    assert loaded.settings.kafka.sasl_password is not None
    assert loaded.settings.kafka.sasl_password.get_secret_value() == "hunter2"
    shown = {row.key: row.value for row in loaded.rows()}
    assert shown["kafka.sasl_password"] == "**********"
    assert shown["kafka.ssl_key_password"] is None
    _file("[kafka]\nssl_key_password = 12345\n")
    (problem,) = _problems()
    assert "12345" not in problem


def test_storage_options_come_from_a_file_and_from_variables_and_are_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    _file(
        "[snapshot]\nurl = 's3://bucket/path'\nkeep = 2\n"
        "[snapshot.storage_options]\nkey = 'me'\nanon = false\nclient_kwargs = {region_name = 'hunter2'}\n"
    )
    monkeypatch.setenv("LIFELINE_SNAPSHOT__STORAGE_OPTIONS__SECRET", "0123")
    loaded = load_settings(flags={"snapshot.url": "memory://x"})
    snapshot = loaded.settings.snapshot
    assert (snapshot.url, snapshot.keep) == ("memory://x", 2)
    assert snapshot.options() == {
        "key": "me",
        "anon": False,
        "client_kwargs": {"region_name": "hunter2"},
        "secret": "0123",
    }
    assert "hunter2" not in str(loaded.rows())
    assert "0123" not in str(loaded.rows())
    assert loaded.origin["snapshot.url"] == "flag --url"
    assert loaded.origin["snapshot.storage_options"] == (
        "env LIFELINE_SNAPSHOT__STORAGE_OPTIONS__SECRET, lifeline.toml"
    )


def test_a_url_with_a_password_is_an_error_that_does_not_tell_it() -> None:
    (problem,) = _problems(snapshot__url="ftp://me:hunter2@host/path")
    assert problem.startswith("flag --url: snapshot.url: it contains a password")
    assert "hunter2" not in problem


def test_the_vocabulary_comes_from_a_file_and_from_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    _file(
        "[vocabulary.action_types]\nadd = {id = 1}\ndelete = {id = 3, role = 'negative'}\n"
        "[vocabulary.surfaces]\ndir00 = 1\n"
    )
    monkeypatch.setenv("LIFELINE_VOCABULARY__SURFACES__DIR01", "2")
    monkeypatch.setenv("LIFELINE_VOCABULARY__ACTION_TYPES__VIEW", '{"id": 9, "role": "impression"}')
    loaded = load_settings()
    vocabulary = loaded.settings.vocabulary
    assert vocabulary.action_type_names == {1: "add", 3: "delete", 9: "view"}
    assert vocabulary.ids_with_role(Role.NEGATIVE) == [3]
    assert vocabulary.surfaces == {"dir00": 1, "dir01": 2}
    assert loaded.origin["vocabulary.surfaces"] == "env LIFELINE_VOCABULARY__SURFACES__DIR01, lifeline.toml"


def test_two_names_with_one_id_are_an_error() -> None:
    _file("[vocabulary.surfaces]\na = 1\nb = 1\n")
    (problem,) = _problems()
    assert problem.startswith("lifeline.toml: vocabulary: surface id 1 is given to two names")


def test_the_settings_do_not_change() -> None:
    settings = load_settings().settings
    with pytest.raises(ValueError, match="frozen"):
        settings.node.log_level = "debug"


@pytest.mark.parametrize(("most", "waits", "places"), [(128, None, 32), (2, None, 1), (1, None, 1), (8, 8, 8)])
def test_a_quarter_of_the_calls_may_wait_where_nothing_else_is_said(most: int, waits: int | None, places: int) -> None:
    assert NodeSettings(max_concurrent_rpcs=most, max_waits=waits).wait_places == places


def test_calls_that_wait_are_no_more_than_the_others() -> None:
    with pytest.raises(ValidationError, match=r"node.max_waits is more than node.max_concurrent_rpcs \(8\): lower it"):
        NodeSettings(max_concurrent_rpcs=8, max_waits=9)
