"""Logs of all processes: one JSON object a line on stderr, constant event names with fields.

Ours come through structlog (`structlog.get_logger()`), those of libraries through the standard library; both leave by the same door
and look alike. Events carry neither secrets nor payloads.
"""

import logging
import sys
from typing import TextIO

import structlog

# Libraries that tell at INFO what we tell ourselves, or tell it per request.
_QUIET = ("uvicorn", "uvicorn.error", "grpclib", "hpack", "asyncio", "pyroute2")


def configure(level: str, process: str, stream: TextIO | None = None) -> None:
    """Set up the logs of this process, called once at its start; `process` ("server", "edge" …) is a field of every line."""
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _named(process),
        structlog.processors.format_exc_info,
    ]
    threshold = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, _library],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, structlog.processors.JSONRenderer(default=str)],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(threshold)
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(threshold, logging.WARNING))


def _named(process: str) -> structlog.types.Processor:
    def add(_: object, __: str, event: structlog.types.EventDict) -> structlog.types.EventDict:
        event["process"] = process
        return event

    return add


def _library(_: object, __: str, event: structlog.types.EventDict) -> structlog.types.EventDict:
    """Give a library's free text a constant event name."""
    record = event.get("_record")
    event["message"] = event["event"]
    event["event"] = "library_message"
    if isinstance(record, logging.LogRecord):
        event["logger"] = record.name
    return event
