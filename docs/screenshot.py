"""Make an SVG of what a command prints.

    python docs/screenshot.py docs/explain.svg explain USER ITEM --tokens 5 --config FILE

The picture of the README shows the user of `lifeline demo --keep`, seconds after an action on that item.
"""

import sys
from pathlib import Path

from rich.console import CONSOLE_SVG_FORMAT  # type: ignore[attr-defined] # imported there, not exported

from lifeline.cli import main
from lifeline.cli.console import out

_WIDTH = 104
_FONT = 'ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace'


def _template() -> str:
    """Return rich's template with fonts of the reader's machine: GitHub shows no SVG that loads one."""
    start, end = CONSOLE_SVG_FORMAT.index("@font-face"), CONSOLE_SVG_FORMAT.index(".{unique_id}-matrix")
    return (CONSOLE_SVG_FORMAT[:start] + CONSOLE_SVG_FORMAT[end:]).replace("Fira Code, monospace", _FONT)


def _record(path: Path, arguments: list[str]) -> None:
    out.record, out.width = True, _WIDTH
    try:
        main(arguments)
    except SystemExit as end:
        if end.code:
            raise
    shown = arguments[: arguments.index("--config")] if "--config" in arguments else arguments
    # Fixed names in the file, so that a new picture differs only where the output does.
    svg = out.export_svg(
        title=f"$ lifeline {' '.join(shown)}", code_format=_template(), unique_id="terminal", font_aspect_ratio=0.61
    )
    path.write_text("\n".join(line.rstrip() for line in svg.splitlines()) + "\n", encoding="utf-8")


if __name__ == "__main__":
    _record(Path(sys.argv[1]), sys.argv[2:])
