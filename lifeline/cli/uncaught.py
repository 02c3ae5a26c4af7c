"""Python's report of an uncaught exception, of any thread: escaped, indented, and with secrets masked."""

import sys
import threading
import traceback
from types import TracebackType

from lifeline.core.printable import printable
from lifeline.core.redaction import redact

_INDENT = "  "


def install_excepthooks() -> None:
    """Replace the hooks that print an uncaught exception."""

    def print_exception(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
        text = "".join(traceback.format_exception(kind, error, trace))
        sys.stderr.write(redact(indented(text.rstrip()).lstrip()) + "\n")

    def print_exception_of_thread(args: threading.ExceptHookArgs) -> None:
        if args.exc_type is not SystemExit:
            print_exception(args.exc_type, args.exc_value, args.exc_traceback)

    sys.excepthook, threading.excepthook = print_exception, print_exception_of_thread


def indented(lines: str) -> str:
    """Return lines escaped and indented, so that none looks like a line of the log."""
    return _INDENT + printable(lines, keep="\n").replace("\n", f"\n{_INDENT}")
