"""Start-up: no command's module is imported to list the commands, and the list agrees with the commands."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from lifeline.cli import app, inspect
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


def test_help_of_a_command_validates_nothing() -> None:
    _, modules = modules_after("inspect", "--help")
    assert "pydantic" not in modules


NOWHERE = ("--address", "127.0.0.1:1")
WITHOUT_LOGGER = {
    "get": ("ann", *NOWHERE),
    "score": ("ann", "1", *NOWHERE),
    "explain": ("ann", "1", *NOWHERE),
    "partitions": NOWHERE,
    "inspect": ("--data-dir", "nowhere"),
    "health": NOWHERE,
    "metrics": (),
    "token": (),
    "model": ("show", *NOWHERE),
    "config": ("show",),
}


def test_commands_without_a_logger_have_their_arguments_here() -> None:
    assert {entry.name for entry in COMMANDS if not entry.has_logger} == set(WITHOUT_LOGGER)


@pytest.mark.parametrize(("command", "arguments"), WITHOUT_LOGGER.items(), ids=WITHOUT_LOGGER)
def test_a_command_without_a_logger_imports_neither_structlog_nor_progress_displays(
    command: str, arguments: tuple[str, ...]
) -> None:
    _, modules = modules_after(command, *arguments)
    assert modules & {"structlog", "rich.progress", "numpy.random"} == set()


def test_inspect_needs_no_logger_where_there_is_a_partition_either() -> None:
    imports = re.findall(r"^    from (lifeline\.\S+) import", Path(inspect.__file__).read_text(), re.MULTILINE)
    assert "lifeline.store.inspection.partition" in imports
    program = f"import sys, {', '.join(imports)}; print('structlog' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert ran.stdout == "False\n"


def test_an_error_of_a_library_is_shown_escaped_by_a_command_without_a_logger() -> None:
    program = (
        "import logging; from lifeline.cli import _configure_command_logs as configure; configure(has_logger=False);"
        "log = logging.getLogger('grpc'); log.warning('a warning'); log.error('broken \x1b[2J'); log.error('again')"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    lines = ran.stderr.splitlines()
    assert len(lines) == 2, ran.stderr
    assert "broken \\x1b[2J" in lines[0]
    assert "again" in lines[1]


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
