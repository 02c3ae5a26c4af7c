"""The command line: help, usage errors, exit codes, JSON."""

import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from lifeline import __version__
from lifeline.cli import app, main
from lifeline.cli.commands import COMMANDS

SUBCOMMANDS = (
    ("topics", "create"),
    ("config", "show"),
    ("snapshot", "create"),
    ("snapshot", "list"),
    ("snapshot", "restore"),
    ("dlq", "list"),
    ("dlq", "show"),
    ("dlq", "retry"),
    ("model", "show"),
    ("model", "use"),
    ("experiment", "report"),
)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


@pytest.mark.parametrize("arguments", [*((entry.name,) for entry in COMMANDS), *SUBCOMMANDS])
def test_every_command_explains_itself(arguments: tuple[str, ...]) -> None:
    result = run(*arguments, "--help")
    assert result.exit_code == 0
    assert "--help" in result.output


@pytest.mark.parametrize(
    "arguments",
    [
        ("nothing",),
        ("get",),
        ("get", "u", "--kind", "none"),
        ("produce",),
        ("bench", "nothing"),
        ("bench", "hostile", "nothing"),
        ("bench", "slice", "--seconds", "5"),
        ("score", "u", "x"),
    ],
)
def test_usage_errors_exit_with_2(arguments: tuple[str, ...]) -> None:
    assert run(*arguments).exit_code == 2


def test_config_show_says_where_values_come_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "my.toml"
    file.write_text('[kafka]\ngroup_id = "mine"\n')
    monkeypatch.setenv("LIFELINE_STORE__MAX_EXPLICIT", "99")
    shown = json.loads(run("config", "show", "--origin", "--json", "--config", str(file)).stdout)
    assert shown["kafka.group_id"] == {"value": "mine", "origin": str(file)}
    assert shown["store.max_explicit"] == {"value": 99, "origin": "env LIFELINE_STORE__MAX_EXPLICIT"}
    assert shown["node.grpc_address"]["origin"] == "default"
    plain = run("config", "show", "--config", str(file))
    assert plain.exit_code == 0
    assert "mine" in plain.stdout


def main_with(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["lifeline", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    code = ended.value.code
    assert isinstance(code, int)
    return code


def test_a_wrong_setting_exits_with_2_and_names_its_source(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LIFELINE_STORE__MAX_EXPLICIT", "many")
    assert main_with(monkeypatch, "config", "show") == 2
    complaint = capfd.readouterr().err
    assert "LIFELINE_STORE__MAX_EXPLICIT" in complaint
    assert "Traceback" not in complaint


def test_a_node_that_is_not_there_exits_with_1_and_says_so(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main_with(monkeypatch, "get", "u", "--address", "127.0.0.1:1", "--timeout", "1") == 1
    assert "127.0.0.1:1" in capfd.readouterr().err


def test_a_source_that_is_not_there_exits_with_1(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main_with(monkeypatch, "produce", "nothing.csv") == 1
    assert "nothing.csv" in capfd.readouterr().err


def test_a_missing_package_exits_with_1_and_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "secrets", None)
    assert main_with(monkeypatch, "token") == 1
    error = capfd.readouterr().err
    assert "needs secrets, which is not installed: run `pip install 'lifeline-store[all]'`" in error


def test_the_version_is_printed() -> None:
    result = run("--version")
    assert result.exit_code == 0
    assert result.output == f"lifeline {__version__}\n"
