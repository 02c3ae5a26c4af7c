"""Progress displays, made with rich. Apart from `console.py`, because they take long to import."""

from collections.abc import Callable

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
from rich.text import Text

from lifeline.cli.console import err
from lifeline.core.printable import printable


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
