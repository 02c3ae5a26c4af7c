"""Where every command prints: answers to stdout, as text or as one JSON document; notes and errors to stderr.

rich is imported when something is printed, so that a command's module stays quick to import.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.progress import Progress


class Table(NamedTuple):
    """A title over a table."""

    title: str
    columns: Sequence[str]
    """The headings; a column whose heading ends in ``>`` is aligned to the right."""
    rows: Iterable[Iterable[object]]


Part: TypeAlias = "Table | RenderableType"
"""One part of an answer: a table, a line of text, or anything that rich renders."""


class Output:
    """The output of one command.

    Text from outside (user ids, messages of brokers, file names) is shown with its control characters escaped.
    """

    def __init__(self, *, as_json: bool = False) -> None:
        self._as_json = as_json

    def show(self, *, text: Callable[[], Iterable[Part]], document: Callable[[], object]) -> None:
        """Print the answer in the requested form; only that form is computed."""
        if self._as_json:
            self._print_json(document())
        else:
            self.print(*text())

    def print(self, *parts: Part) -> None:
        """Print parts of an answer as text. Lines are never wrapped."""
        from lifeline.cli.console import out, render

        for part in parts:
            out.print(
                render(part) if isinstance(part, Table) else part, highlight=False, soft_wrap=isinstance(part, str)
            )

    def note(self, text: str) -> None:
        """Print a note to stderr, which is not part of the answer."""
        from lifeline.cli.console import err

        err.print(text, highlight=False, soft_wrap=True)

    def error(self, text: str) -> None:
        """Print an error to stderr. Its further lines are indented, so that none looks like another error."""
        from rich.text import Text

        from lifeline.cli.console import err

        err.print(Text("error:", style="bold red"), text.replace("\n", "\n  "), highlight=False, soft_wrap=True)

    def progress(self) -> "Progress":
        """Return a progress display on stderr; it shows nothing if stderr is not a terminal."""
        from lifeline.cli.progress import progress

        return progress()

    @staticmethod
    def _print_json(document: object) -> None:
        """Print one JSON document, with all control characters in strings escaped, more than JSON requires."""
        from rich.highlighter import JSONHighlighter

        from lifeline.cli.console import out

        lines = json.dumps(document, ensure_ascii=False, indent=2).split("\n")
        text = "\n".join(line if line.isprintable() else "".join(map(_json_char, line)) for line in lines)
        out.print(JSONHighlighter()(text), soft_wrap=True)


def _json_char(char: str) -> str:
    return char if char.isprintable() else json.dumps(char)[1:-1]
