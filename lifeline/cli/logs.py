"""Log lines: structlog for ours and for the libraries', on the error stream, as text or as JSON, secrets masked.

Values are escaped (printable.py), and a traceback shows no local variables: they hold users' keys. In the text form its
lines are indented, so that each line that is not is one of the log.
"""

import logging
import sys
import threading
import traceback
from types import TracebackType

import structlog

from lifeline.core.printable import printable
from lifeline.core.redaction import redacted
from lifeline.rpc.settings import NodeSettings

# What these say at "info" is about their insides.
_CHATTY = ("aiokafka", "faust", "kafka", "mode", "asyncio", "grpc")
_LINES = ("exception", "stack")
_INDENT = "  "
_JSON = structlog.processors.JSONRenderer()


def configure_logs(settings: NodeSettings) -> None:
    """Send everything to the error stream in the configured form; the last call holds."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    render: list[structlog.typing.Processor] = (
        [_as_json]
        if settings.log_format == "json"
        # The traceback is text by then; rich's would show local variables.
        else [
            _escape_values,
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
            ),
        ]
    )
    # Last, so that tracebacks and the libraries' lines are covered: they show URLs as they were called.
    render.append(_without_secrets)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                *render,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(settings.log_level.upper())
    for name in _CHATTY:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
    # It warns of each burst of work as if it were a fault.
    logging.getLogger("kafka.net.selector").setLevel(logging.ERROR)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )


def _without_secrets(_logger: object, _method: str, line: structlog.typing.EventDict) -> str:
    """Mask what URLs and connection strings carry in a line that is rendered already."""
    return redacted(str(line))


def print_uncaught() -> None:
    """Have Python's own last words on an error, of any thread, escaped and masked as well."""

    def write(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
        text = "".join(traceback.format_exception(kind, error, trace))
        sys.stderr.write(redacted(_indented(text.rstrip()).lstrip()) + "\n")

    def write_of_thread(args: threading.ExceptHookArgs) -> None:
        if args.exc_type is not SystemExit:
            write(args.exc_type, args.exc_value, args.exc_traceback)

    sys.excepthook, threading.excepthook = write, write_of_thread


def _escape_values(
    _logger: structlog.typing.WrappedLogger, _method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    lines = {name: str(event.pop(name)) for name in _LINES if name in event}
    return {
        **{
            printable(name): printable(value if isinstance(value, str) else repr(value))
            for name, value in event.items()
        },
        **{name: _indented(text) for name, text in lines.items()},
    }


def _indented(lines: str) -> str:
    return _INDENT + printable(lines, keep="\n").replace("\n", f"\n{_INDENT}")


def _as_json(logger: structlog.typing.WrappedLogger, method: str, event: structlog.typing.EventDict) -> str:
    # The one control character that JSON in ASCII lets pass; it stands in strings alone.
    return str(_JSON(logger, method, event)).replace("\x7f", "\\u007f")
