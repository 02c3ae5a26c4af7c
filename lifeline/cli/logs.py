"""Log lines of Lifeline and its libraries: to stderr with structlog, as text or JSON, with secrets masked.

Values are escaped (core/printable.py). A traceback shows no local variables, because they may hold user ids. In text
form its lines are indented, so that each line that is not indented begins a record.
"""

import logging
import sys

import structlog

from lifeline.cli.uncaught import indented
from lifeline.core.printable import printable
from lifeline.core.redaction import redact
from lifeline.rpc.settings import NodeSettings

# Libraries whose "info" messages describe their internals.
_VERBOSE_LIBRARIES = ("aiokafka", "faust", "kafka", "mode", "asyncio", "grpc")
_MULTILINE = ("exception", "stack")
_JSON = structlog.processors.JSONRenderer()


def configure_logs(settings: NodeSettings) -> None:
    """Log to stderr in the configured form. A later call replaces the configuration."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    render: list[structlog.typing.Processor] = (
        [_as_json]
        if settings.log_format == "json"
        # A plain traceback, because rich's shows local variables.
        else [
            _escape_values,
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
            ),
        ]
    )
    # Last, so that tracebacks and the lines of libraries are covered too: they show whole URLs.
    render.append(_mask_secrets)
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
    for name in _VERBOSE_LIBRARIES:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
    # It logs a warning for every burst of work.
    logging.getLogger("kafka.net.selector").setLevel(logging.ERROR)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )


def _mask_secrets(_logger: object, _method: str, line: structlog.typing.EventDict) -> str:
    """Mask the secrets of URLs and connection strings in a rendered line."""
    return redact(str(line))


def _escape_values(
    _logger: structlog.typing.WrappedLogger, _method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    multiline = {name: str(event.pop(name)) for name in _MULTILINE if name in event}
    return {
        **{
            printable(name): printable(value if isinstance(value, str) else repr(value))
            for name, value in event.items()
        },
        **{name: indented(text) for name, text in multiline.items()},
    }


def _as_json(logger: structlog.typing.WrappedLogger, method: str, event: structlog.typing.EventDict) -> str:
    # ASCII JSON escapes every control character but this one, which occurs in strings only.
    return str(_JSON(logger, method, event)).replace("\x7f", "\\u007f")
