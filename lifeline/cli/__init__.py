"""The `lifeline` command. Exit codes: 0 done, 1 failed, 2 usage or configuration error, 3 two states differ.

`commands.py` lists the commands. The module of a command is imported when the command is used.
"""

import io
import logging
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from lifeline import INSTALL, __version__
from lifeline.cli.commands import COMMANDS
from lifeline.cli.lazy import lazy_group
from lifeline.cli.output import Output
from lifeline.cli.uncaught import install_excepthooks
from lifeline.core.errors import ActionableError, ConfigError
from lifeline.core.printable import printable

EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130

app = typer.Typer(
    name="lifeline",
    cls=lazy_group(COMMANDS),
    help=(
        "A store of user histories: it applies every action from Kafka within seconds, keeps each user's whole history "
        "compressed on local disk, and scores items on it. "
        "Exit codes: 0 done, 1 failed, 2 usage or configuration error, 3 two states differ."
    ),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    pretty_exceptions_show_locals=False,
    rich_markup_mode=None,
)


def _print_version(asked: bool) -> None:
    if asked:
        sys.stdout.write(f"lifeline {__version__}\n")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    del version


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the program on `arguments`, or on those of the process. It ends in SystemExit.

    An expected failure is one clear sentence on stderr, not a traceback.
    """
    install_excepthooks()
    _print_any_text()
    try:
        # Not `app()`: typer would replace our exception hook with its own.
        sys.exit(
            typer.main.get_command(app).main(
                arguments, prog_name="lifeline", standalone_mode=False, obj=_configure_command_logs
            )
        )
    except typer.TyperException as error:
        # As typer would print it, but escaped: an argument may be a file name that somebody else chose.
        text = io.StringIO()
        error.show(text)  # type: ignore[attr-defined] # every exception that it raises here has it
        sys.stderr.write(printable(text.getvalue(), keep="\n"))
        sys.exit(error.exit_code)
    except typer.Abort:
        Output().note("nothing was done")
        sys.exit(EXIT_FAILED)
    except ConfigError as error:
        for problem in error.problems:
            Output().error(problem)
        sys.exit(EXIT_USAGE)
    except (ActionableError, TimeoutError) as error:
        Output().error(str(error))
        sys.exit(EXIT_FAILED)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "lifeline":
            raise
        Output().error(f"this command needs {error.name}, which is not installed: {INSTALL.format(extra='all')}")
        sys.exit(EXIT_FAILED)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)


def _print_any_text() -> None:
    """Have stdout escape what its encoding lacks: an answer must not end in an error for a user's id."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _configure_command_logs(*, has_logger: bool) -> None:
    """Log errors only: commands print their own progress. A node configures its log once more.

    A command without a logger of its own configures the logs when a library logs its first error.
    """
    if has_logger:
        _log_errors()
    else:
        root = logging.getLogger()
        root.handlers = [_LibraryErrors()]
        root.setLevel(logging.ERROR)


class _LibraryErrors(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        _log_errors()
        logging.getLogger().handle(record)


def _log_errors() -> None:
    from lifeline.cli.logs import configure_logs
    from lifeline.rpc.settings import NodeSettings

    configure_logs(NodeSettings(log_level="error"))
