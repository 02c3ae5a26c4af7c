"""The consoles behind `Output`, and its tables, made with rich."""

from typing import Any

from rich import box
from rich.console import Console, Group
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

    @property
    def encoding(self) -> str:
        """The encoding of the file that is written to, by which rich chooses characters for lines of tables."""
        return (getattr(self.file, "encoding", None) or "utf-8").lower()

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
