"""Start-up: no command's module is imported to list the commands, and the list agrees with the commands."""

import json
import subprocess
import sys
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from lifeline.cli import app
from lifeline.cli.commands import COMMANDS
from lifeline.cli.lazy import CommandEntry

HEAVY = {
    "asyncio",
    "aiokafka",
    "faust",
    "google.protobuf",
    "grpc",
    "kafka",
    "numpy",
    "pydantic_settings",
    "rich",
    "rocksdict",
    "structlog",
    "torch",
}
PROGRAM = """
import json, sys
from lifeline.cli import main
code = 0
try:
    main(sys.argv[1:])
except SystemExit as ended:
    code = ended.code
print(json.dumps([code, sorted(sys.modules)]))
"""


def modules_after(*arguments: str) -> tuple[int, set[str]]:
    """Run the command line in a process of its own; return its exit code and the modules that it imported."""
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, check=True, timeout=60
    )
    code, modules = json.loads(ran.stdout.splitlines()[-1])
    return code, set(modules)


@pytest.mark.parametrize(
    ("arguments", "code"), [(("--help",), 0), (("--version",), 0), (("get",), 2), (("snapshot", "create", "--help"), 0)]
)
def test_nothing_heavy_is_imported_before_a_command_runs(arguments: tuple[str, ...], code: int) -> None:
    ended, modules = modules_after(*arguments)
    assert ended == code
    assert modules & HEAVY == set()


def test_help_imports_no_command() -> None:
    _, modules = modules_after("--help")
    # typer needs pydantic too, but only for the parameters of a command.
    assert modules & {"pydantic", *(entry.target.partition(":")[0] for entry in COMMANDS)} == set()


def resolved(name: str) -> Any:
    group: Any = typer.main.get_command(app)
    _, command, _ = group.resolve_command(group.make_context("lifeline", [name], resilient_parsing=True), [name])
    return command


@pytest.mark.parametrize("entry", COMMANDS, ids=lambda entry: entry.name)
def test_the_list_says_what_the_command_says(entry: CommandEntry) -> None:
    command = resolved(entry.name)
    assert command.name == entry.name
    assert command.help.partition("\n")[0] == entry.summary


def test_every_summary_fits_on_its_line() -> None:
    result = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "80"})
    for entry in COMMANDS:
        assert entry.hidden == (f"  {entry.name}  " not in result.output)
        assert entry.hidden or entry.summary in result.output


def test_a_command_that_is_mistyped_is_suggested() -> None:
    result = CliRunner().invoke(app, ["replya"])
    assert result.exit_code == 2
    assert "'replay'" in result.output
