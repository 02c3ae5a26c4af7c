"""What every command shares: the consoles, JSON, tables, the settings of a call."""

import json
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.highlighter import JSONHighlighter
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from lifeline.config import Loaded, load_settings
from lifeline.core.printable import printable


class SafeConsole(Console):
    """A console on which text is shown, and never obeyed: no markup, no emoji codes, no control characters.

    It holds for every `str` that is printed or stands in a table. What is to have a style is a `Text` of our own words.
    """

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, markup=False, emoji=False)

    def render_str(self, text: str, **options: Any) -> Text:  # noqa: ANN401 - handed on as they are
        """Return the text with what is not printable escaped, but for line breaks."""
        return super().render_str(printable(text, keep="\n"), **options)


out = SafeConsole()
"""Where answers go."""
err = SafeConsole(stderr=True)
"""Where progress and complaints go, so that answers can be piped."""

ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="TOML file; LIFELINE_CONFIG, else ./lifeline.toml", show_default=False)
]
BootstrapOption = Annotated[
    str | None, typer.Option("--bootstrap-servers", help="Kafka, host:port[,host:port]", show_default=False)
]
AddressOption = Annotated[
    str | None, typer.Option("--address", help="the node's gRPC address, host:port", show_default=False)
]
DataDirOption = Annotated[Path | None, typer.Option("--data-dir", help="the node's state", show_default=False)]
JsonOption = Annotated[bool, typer.Option("--json", help="print JSON instead of a table")]


def load(config: Path | None, **flags: object) -> Loaded:
    """Return the settings of this call; a flag is named after its key, with ``__`` for the dot."""
    return load_settings(config, {key.replace("__", "."): value for key, value in flags.items()})


def flags_of(config: Path | None, bootstrap_servers: str | None) -> list[str]:
    """Return the arguments that give a process the settings of this call."""
    return [
        *(("--config", str(config)) if config else ()),
        *(("--bootstrap-servers", bootstrap_servers) if bootstrap_servers else ()),
    ]


def print_json(value: Any) -> None:  # noqa: ANN401 - anything that JSON can hold
    """Print one JSON document. In its strings, what JSON itself lets pass is escaped as well."""
    lines = json.dumps(value, ensure_ascii=False, indent=2).split("\n")
    text = "\n".join(line if line.isprintable() else "".join(map(_json_char, line)) for line in lines)
    out.print(JSONHighlighter()(text), soft_wrap=True)


def _json_char(char: str) -> str:
    return char if char.isprintable() else json.dumps(char)[1:-1]


def complain(what: str) -> None:
    """Print what went wrong. Its further lines are indented: none of them passes for another complaint."""
    err.print(Text("error:", style="bold red"), what.replace("\n", "\n  "), highlight=False, soft_wrap=True)


def table(title: str, columns: Iterable[str], rows: Iterable[Iterable[object]]) -> Group:
    """Return a title over a table; columns that end in ``>`` are aligned to the right."""
    made = Table(box=SIMPLE_HEAD, header_style="dim", pad_edge=False, show_edge=False)
    for column in columns:
        # Nothing is ever cut: what does not fit goes on in the next line.
        right = column.endswith(">")
        made.add_column(printable(column.rstrip(">")), justify="right" if right else "left", overflow="fold")
    for row in rows:
        made.add_row(*(printable(str(cell)) for cell in row))
    return Group(Text(printable(title), style="bold"), made)


class _Words(ProgressColumn):
    """Text of a task, as it is."""

    def __init__(self, words: Callable[[Task], str]) -> None:
        super().__init__()
        self._words = words

    def render(self, task: Task) -> Text:
        return Text(printable(self._words(task)))


def progress() -> Progress:
    """Return a progress display on the error console, where that is a terminal: bar, count, rate, time."""
    return Progress(
        SpinnerColumn(),
        _Words(lambda task: task.description),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        _Words(lambda task: str(task.fields["note"])),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=err,
        disable=not err.is_terminal,
    )


def when(timestamp_ms: int) -> str:
    """Return a time of the log in UTC, as people read it."""
    return datetime.fromtimestamp(timestamp_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def age(milliseconds: int) -> str:
    """Return a duration in its largest unit."""
    seconds = abs(milliseconds) / 1000
    for unit, size in (("y", 31_557_600), ("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.3f} s"
