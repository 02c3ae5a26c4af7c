"""Where every command prints: answers to stdout, as text or as one JSON document; notes and errors to stderr.

rich is imported when something is printed, so that a command's module stays quick to import.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from lifeline.core.printable import printable

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.progress import Progress

_INDENT = "  "
_MAX_HIGHLIGHTED = 1 << 16


class Table(NamedTuple):
    """A title over a table."""

    title: str
    columns: Sequence[str]
    """The headings; a column whose heading ends in ``>`` is aligned to the right."""
    rows: Iterable[Iterable[object]]


Part: TypeAlias = "Table | RenderableType"
"""One part of an answer: a table, a line of text, or anything that rich renders. A line break in a line is escaped."""


class Output:
    """The output of one command.

    Text from outside (user ids, messages of brokers, file names) is shown with its control characters escaped.
    """

    def __init__(self, *, as_json: bool = False) -> None:
        self.as_json = as_json
        """Whether the answer is a JSON document."""

    def show(self, *, text: Callable[[], Iterable[Part]], document: Callable[[], object]) -> None:
        """Print the answer in the requested form; only that form is computed."""
        if self.as_json:
            self._print_json(document())
        else:
            self.print(*text())

    def print(self, *parts: Part) -> None:
        """Print parts of an answer as text. Lines are never wrapped."""
        from lifeline.cli.console import out, render

        for part in parts:
            if isinstance(part, str):
                out.print(printable(part), highlight=False, soft_wrap=True)
            else:
                out.print(render(part) if isinstance(part, Table) else part, highlight=False)

    def note(self, text: str) -> None:
        """Print a note to stderr, in one line, which is not part of the answer."""
        from lifeline.cli.console import err

        err.print(printable(text), highlight=False, soft_wrap=True)

    def error(self, text: str) -> None:
        """Print an error to stderr. Its further lines are indented, so that none looks like another error."""
        from rich.text import Text

        from lifeline.cli.console import err

        err.print(Text("error:", style="bold red"), text.replace("\n", "\n  "), highlight=False, soft_wrap=True)

    def progress(self) -> "Progress":
        """Return a progress display on stderr; it shows nothing if stderr is not a terminal."""
        from lifeline.cli.progress import progress

        return progress()

    def line(self, document: object) -> None:
        """Print a JSON document as one line of stdout."""
        _write(_encodable(_escaped(json.dumps(document, ensure_ascii=False, separators=(",", ":")))))

    @staticmethod
    def _print_json(document: object) -> None:
        """Print one JSON document, in colours on a terminal. Its control characters are escaped."""
        from lifeline.cli.console import out

        text = _encodable("\n".join(map(_escaped, _lines(document))))
        if not out.is_terminal or len(text) > _MAX_HIGHLIGHTED:
            _write(text)
            return
        from rich.highlighter import JSONHighlighter

        out.print(JSONHighlighter()(text), soft_wrap=True)


def _write(text: str) -> None:
    """Write to where the console of answers writes, without its layout, which takes a microsecond a character."""
    from lifeline.cli.console import out

    out.file.write(f"{text}\n")
    out.file.flush()


def _encodable(text: str) -> str:
    """Return JSON in which a character that stdout's encoding lacks is escaped."""
    from lifeline.cli.console import out

    try:
        text.encode(out.encoding)
    except UnicodeEncodeError:
        return "".join(char if char.isascii() else json.dumps(char)[1:-1] for char in text)
    return text


def _lines(document: object, indent: str = "", before: str = "", after: str = "") -> Iterator[str]:
    """Yield the lines of a JSON document. A list without mappings takes one line, however long: it is a column."""
    inner = indent + _INDENT
    if isinstance(document, Mapping) and document:
        yield f"{indent}{before}{{"
        for at, (key, value) in enumerate(document.items(), 1):
            comma = "," if at < len(document) else ""
            yield from _lines(value, inner, f"{json.dumps(str(key), ensure_ascii=False)}: ", comma)
        yield f"{indent}}}{after}"
    elif isinstance(document, list | tuple) and any(isinstance(value, Mapping) for value in document):
        yield f"{indent}{before}["
        for at, value in enumerate(document, 1):
            yield from _lines(value, inner, after="," if at < len(document) else "")
        yield f"{indent}]{after}"
    else:
        yield f"{indent}{before}{json.dumps(document, ensure_ascii=False)}{after}"


def _escaped(text: str) -> str:
    """Return JSON in which no string holds a character that JSON allows but a terminal obeys."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else json.dumps(char)[1:-1] for char in text)
