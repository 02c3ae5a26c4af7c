"""The consoles behind `Output`, with tables and progress displays, made with rich."""

from collections.abc import Callable
from typing import Any

from rich import box
from rich.console import Console, Group
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
from rich.table import Table as Grid
from rich.text import Text

from lifeline.cli.output import Table
from lifeline.core.printable import printable


class SafeConsole(Console):
    """A console that prints text literally: no markup, no emoji codes, no control characters.

    This holds for every `str` in output and tables. Only a `Text`, which has no input from outside, is styled.
    """

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, markup=False, emoji=False)

    def render_str(self, text: str, **options: Any) -> Text:  # noqa: ANN401 - passed on unchanged
        """Return the text with every unprintable character escaped, except line breaks."""
        return super().render_str(printable(text, keep="\n"), **options)


out = SafeConsole()
"""For answers."""
err = SafeConsole(stderr=True)
"""For progress, notes and errors, so that answers can be piped."""


def render(table: Table) -> Group:
    """Return a table as rich prints it. Cells are wrapped, never cut."""
    grid = Grid(box=box.SIMPLE_HEAD, header_style="dim", pad_edge=False, show_edge=False)
    for column in table.columns:
        justify = "right" if column.endswith(">") else "left"
        grid.add_column(printable(column.rstrip(">")), justify=justify, overflow="fold")  # type: ignore[arg-type]
    for row in table.rows:
        grid.add_row(*(printable(str(cell)) for cell in row))
    return Group(Text(printable(table.title), style="bold"), grid)


class _TextColumn(ProgressColumn):
    """Text of a task, without markup."""

    def __init__(self, text_of: Callable[[Task], str]) -> None:
        super().__init__()
        self._text_of = text_of

    def render(self, task: Task) -> Text:
        return Text(printable(self._text_of(task)))


def progress() -> Progress:
    """Return a progress display on stderr, if that is a terminal: bar, count, rate, time."""
    return Progress(
        SpinnerColumn(),
        _TextColumn(lambda task: task.description),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        _TextColumn(lambda task: str(task.fields["note"])),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=err,
        disable=not err.is_terminal,
    )
