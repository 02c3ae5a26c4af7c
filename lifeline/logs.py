"""Log lines: structlog for ours and for the libraries', on the error stream, as text or as JSON, secrets masked."""

import logging
import sys

import structlog

from lifeline.config import NodeSettings
from store.redaction import redacted

# What these say at "info" is about their insides.
_CHATTY = ("aiokafka", "faust", "kafka", "mode", "asyncio", "grpc")


def configure_logs(settings: NodeSettings) -> None:
    """Send everything to the error stream in the configured form; the last call holds."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    as_json = settings.log_format == "json"
    render: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if as_json
        # The default shows the local variables of a traceback, and passwords with them.
        else structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    )
    final = [structlog.processors.format_exc_info, render] if as_json else [render]
    # Last, so that tracebacks and the libraries' lines are covered: they show URLs as they were called.
    final.append(_without_secrets)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *final],
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
