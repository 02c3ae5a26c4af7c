"""Text of others on a terminal and in logs: it is shown, and neither obeyed nor taken for text of ours."""

import io
import json
import logging
import os
import pty
import shlex
import subprocess
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table
from typer.testing import CliRunner

import lifeline.stream.dead_letter_reader as reader
from lifeline.cli import app, console
from lifeline.cli.logs import configure_logs
from lifeline.cli.output import Output
from lifeline.cli.output import Table as OutputTable
from lifeline.core.paths import partition_dir
from lifeline.core.printable import printable, shell_words
from lifeline.rpc.settings import NodeSettings
from lifeline.stream.dead_letter_headers import origin_of
from tests.support.factories import Event, batch_of, open_store
from tests.support.inspected import SHAPE

# A title for the terminal, a colour, a C1 control, a reversal, a line of one's own, markup, an emoji code.
EVIL = "bob\x1b]0;owned\x07\x1b[31m\x9b2J\u202egnp\nerror: forged [red]x[/red] [/y] :boom:"
SHOWN = r"bob\x1b]0;owned\x07\x1b[31m\x9b2J\u202egnp\nerror: forged [red]x[/red] [/y] :boom:"
SECRET = "key-of-a-user-4711"


def squeezed(text: str) -> str:
    """Return a text without the blanks that a table puts into it."""
    return "".join(text.split())


def assert_tame(text: str) -> None:
    assert "\x1b]" not in text
    assert "\x9b" not in text
    assert "\x07" not in text
    assert "\u202e" not in text
    assert "\nerror: forged" not in text


@given(st.text(st.characters(codec=None)))
def test_nothing_that_a_terminal_obeys_is_left(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    assert {unicodedata.category(char) for char in shown} & {"Cc", "Cf", "Cs", "Zl", "Zp"} == set()
    shown.encode()
    assert (shown == text) == text.isprintable()
    assert printable(text, keep="\n").split("\n") == [printable(line) for line in text.split("\n")]


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "400")


@pytest.fixture(params=["piped", "terminal"])
def _terminal(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "terminal":
        monkeypatch.setattr(console.SafeConsole, "is_terminal", True)


@pytest.mark.usefixtures("_terminal")
@pytest.mark.parametrize("text", [EVIL, "[red]bob", "[/x]", ":boom:", "[link=file:///etc]x[/link]"])
def test_what_is_printed_is_shown_as_it_is(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    # A line break in what a console prints may be ours; in what `Output` gets it is not.
    whole = text.replace("\n", "")
    console.out.print(whole, soft_wrap=True, highlight=False)
    grid = Table(whole)
    grid.add_row(whole)
    console.out.print(grid)
    output = Output()
    output.print(OutputTable(text, [text], [[text]]), text)
    output.error(text)
    output.note(text)
    with output.progress() as bar:
        bar.add_task(text, note=text)
    captured = capsys.readouterr()
    assert_tame(captured.out + captured.err)
    assert captured.out.startswith(printable(whole) + "\n")
    bare = "".join(char for char in squeezed(captured.out) if char not in "\u2503\u2502")
    assert bare.count(squeezed(printable(whole))) == (3 if whole != text else 7)
    assert printable(text) in captured.out.splitlines()
    assert printable(text) in captured.err.splitlines()


def test_json_stays_json_and_carries_no_control_character(capsys: pytest.CaptureFixture[str]) -> None:
    value = {EVIL: [EVIL, "\x7f\x9b\U000e0001\ud800 é 漢"]}
    Output(as_json=True).show(text=list, document=lambda: value)
    output = capsys.readouterr().out
    assert json.loads(output) == value
    assert "é 漢" in output
    assert all(line.isprintable() for line in output.splitlines())


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0")))
def test_words_for_a_shell_are_one_line_that_is_the_text(text: str) -> None:
    words = shell_words(text)
    assert words.isprintable()
    assert words.startswith("-- ") == text.startswith("-")
    if text.isprintable():
        assert shlex.split(words)[-1] == text


@pytest.mark.parametrize("text", [EVIL, "-eve", "-\n'\\", "é\x9b\u202e", "[/x]", ":key:", "$(id) `id` \\"])
def test_a_shell_reads_them_as_the_text(text: str) -> None:
    # `printf` knows "--" as every command does.
    script = f'say() {{ [ "$1" = -- ] && shift; printf %s "$1"; }}; say {shell_words(text)}'
    done = subprocess.run(["bash", "-c", script], capture_output=True, check=True)
    assert done.stdout.decode() == text


@pytest.mark.parametrize("answer", ["n\n", ""])
def test_who_does_not_confirm_gets_no_traceback(answer: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "lifeline", "erase", "[/x]"], input=answer, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "Erase every event of '[/x]'?" in done.stdout
    assert done.stderr.strip() == "nothing was done"


def test_inspect_shows_a_users_id_escaped(tmp_path: Path) -> None:
    store = open_store(partition_dir(tmp_path, 0), SHAPE)
    store.apply(batch_of([Event(EVIL.encode(), 1_000 * at, at, 257) for at in range(30)]), offset=9)
    store.close()
    for arguments in ((), ("--user", EVIL), ("--user", EVIL, "--chunk", "0")):
        result = CliRunner().invoke(app, ["inspect", "--data-dir", str(tmp_path), *arguments])
        assert result.exit_code == 0, result.output
        assert_tame(result.output)
        assert squeezed(SHOWN) in squeezed(result.output)


def test_dead_letters_are_shown_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    headers = [
        (EVIL, EVIL.encode()),
        ("lifeline.reason", EVIL.encode()),
        ("__connect.errors.topic", EVIL.encode()),
        ("__connect.errors.partition", b"1"),
        ("__connect.errors.offset", b"2"),
        ("__connect.errors.exception.message", EVIL.encode()),
    ]
    record = SimpleNamespace(
        topic="dlq", partition=0, offset=1, timestamp=5, key=EVIL.encode(), value=EVIL.encode(), headers=headers
    )
    letter = reader.StoredLetter(record, origin_of(headers))
    monkeypatch.setattr(reader, "read_letter", lambda *_: letter)
    monkeypatch.setattr(reader, "read_letters", lambda *_, **__: iter([letter]))
    for arguments in (["list"], ["show", "0", "1"]):
        result = CliRunner().invoke(app, ["dlq", *arguments])
        assert result.exit_code == 0, result.output
        assert_tame(result.output)
        assert r"\x1b]0;owned" in squeezed(result.output)


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def _logs_restored() -> Iterator[None]:
    root = logging.getLogger()
    before, level = root.handlers, root.level
    yield
    root.handlers = before
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.mark.usefixtures("_logs_restored")
@pytest.mark.parametrize("log_format", ["console", "json"])
@pytest.mark.parametrize("stream", [_Terminal, io.StringIO])
def test_a_log_line_is_one_line_and_shows_no_local_variable(
    monkeypatch: pytest.MonkeyPatch, stream: type[io.StringIO], log_format: Literal["console", "json"]
) -> None:
    output = stream()
    monkeypatch.setattr(sys, "stderr", output)
    configure_logs(NodeSettings(log_format=log_format))
    log: Any = structlog.get_logger("ours")

    def fail(user: str) -> None:
        raise ValueError(EVIL + user[:3])

    for _ in range(2):
        try:
            fail(SECRET)
        except ValueError:
            log.exception(EVIL, user=EVIL, key=EVIL.encode(), error=repr(EVIL), **{EVIL: [EVIL]})
            logging.getLogger("theirs").exception("said %s", EVIL)
    text = output.getvalue()
    assert_tame(text)
    assert SECRET not in text
    assert "in fail" in text
    lines = [line for line in text.splitlines() if not line.startswith("  ")]
    assert len(lines) == 4
    if log_format == "json":
        assert json.loads(lines[0])["user"] == EVIL


CODE = f"""
import sys
from lifeline.cli import app, main

@app.command()
def fail() -> None:
    def deeper(user: str) -> None:
        raise RuntimeError({EVIL!r})
    deeper("".join(["key-of-a-user-", "4711"]))

sys.argv = ["lifeline", "fail"]
main()
"""


@pytest.mark.parametrize("terminal", [True, False])
def test_an_unexpected_error_of_a_command_is_a_tame_traceback_without_local_variables(*, terminal: bool) -> None:
    command = [sys.executable, "-c", CODE]
    if not terminal:
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
        code, text = done.returncode, done.stderr
    else:
        own_end, child_end = pty.openpty()
        with subprocess.Popen(
            command, stdout=child_end, stderr=child_end, env={**os.environ, "TERM": "xterm"}
        ) as process:
            os.close(child_end)
            chunks = []
            # Linux says EIO once the other side is closed.
            while True:
                try:
                    chunks.append(os.read(own_end, 65_536))
                except OSError:
                    break
                if not chunks[-1]:
                    break
        os.close(own_end)
        code, text = process.returncode, b"".join(chunks).decode()
    assert code == 1
    assert "in deeper" in text
    assert SECRET not in text
    assert_tame(text.replace("\r\n", "\n"))
    assert r"\x1b]0;owned\x07" in text
